"""What is in a file, for people and programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from higgsx.archive import Archive
from higgsx.fidelity.report import Damage, NotMeasured, damage_from_json
from higgsx.units import format_bytes


@dataclass(frozen=True)
class Row:
    """One tensor of the file."""

    name: str
    code: str
    shape: tuple[int, ...]
    dtype: str
    transform: str
    nbytes: int
    bits: float
    why: str


@dataclass(frozen=True)
class Report:
    """bits      average of a weight in tensors of two or more dimensions
    damage    None if the file has no record
    rejected  why the file was refused when it was made, else empty
    Words of the file itself are printable: it may come from anyone.
    """

    path: str
    size: int
    version: int
    content_digest: str
    model: str
    bits: float
    tensors: tuple[Row, ...]
    ties: tuple[tuple[str, ...], ...]
    assets: tuple[str, ...]
    recipe: dict[str, object]
    damage: Damage | NotMeasured | None
    rejected: str

    def summary(self) -> list[str]:
        codes = Counter(row.code for row in self.tensors if len(row.shape) >= 2)
        listed = ", ".join(
            f"{count} {code}" for code, count in sorted(codes.items(), key=lambda pair: -pair[1])
        )
        return [
            f"{self.path}: {format_bytes(self.size)}, format version {self.version}, {self.model}",
            f"{self.bits:.4f} bits a weight in {sum(codes.values())} matrices: {listed}",
            *(f"tied: {' = '.join(names)}" for names in self.ties),
            f"assets: {', '.join(self.assets)}",
            f"content {self.content_digest}",
            *([f"REJECTED when it was made: {self.rejected}"] if self.rejected else []),
        ]

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.path,
            "bytes": self.size,
            "format_version": self.version,
            "content_digest": self.content_digest,
            "model": self.model,
            "bits": self.bits,
            "tensors": [
                {
                    "name": row.name,
                    "code": row.code,
                    "shape": list(row.shape),
                    "dtype": row.dtype,
                    "transform": row.transform,
                    "bytes": row.nbytes,
                    "bits": row.bits,
                    "why": row.why,
                }
                for row in self.tensors
            ],
            "ties": [list(names) for names in self.ties],
            "assets": list(self.assets),
            "recipe": self.recipe,
            "damage": None if self.damage is None else self.damage.to_json(),
            "rejected": self.rejected or None,
        }


def report_of(archive: Archive) -> Report:
    reasons = _reasons(archive)
    rows = []
    for name, stored in archive.tensors.items():
        what = stored.descriptor
        transform = "" if what.transform is None else f"hadamard {what.transform.width}"
        transform += ", channel scales" if what.transform is not None and what.transform.scales else ""
        code = what.codec.label
        bits = 8 * stored.nbytes / what.weights
        rows.append(
            Row(name, code, what.shape, what.dtype, transform, stored.nbytes, bits, reasons.get(name, ""))
        )
    record = archive.file.damage()
    config = archive.config
    architectures = config.get("architectures")
    model = (
        architectures[0]
        if isinstance(architectures, list) and architectures
        else config.get("model_type", "unknown")
    )
    return Report(
        path=str(archive.file.path),
        size=archive.file.size,
        version=archive.manifest.version,
        content_digest=archive.file.content_digest,
        model=_line(model),
        bits=archive.bits(),
        tensors=tuple(rows),
        ties=archive.ties,
        assets=tuple(archive.file.assets),
        recipe=dict(archive.manifest.recipe),
        damage=None if record is None else damage_from_json(record),
        rejected=_line(record.get("rejected", "")) if record is not None else "",
    )


def _reasons(archive: Archive) -> dict[str, str]:
    groups = archive.manifest.plan.get("groups")
    if not isinstance(groups, list):
        return {}
    return {
        str(group.get("name")): _line(group.get("why", "")) for group in groups if isinstance(group, dict)
    }


def _line(value: object) -> str:
    """No control characters reach a terminal."""
    text = str(value)
    return text if text.isprintable() else ascii(text)
