"""What will be written, and how long it will be, before any of it exists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from higgsx.errors import FormatError
from higgsx.hgs.header import build_header, parse_header
from higgsx.hgs.layout import (
    ALIGN,
    DAMAGE,
    DAMAGE_BYTES,
    MAX_HEADER,
    TAIL,
    TAIL_BYTES,
    ArrayInfo,
    ArraySpec,
    array_nbytes,
    header_bytes,
    place,
)
from higgsx.hgs.manifest import ASSET, AssetEntry, Manifest, TensorEntry
from higgsx.hgs.strictjson import check_free_json
from higgsx.units import round_up

SLACK = 4
"""Bytes by which a descriptor may grow when its numbers become final (an exponent from 0 to -64)."""
_NO_DIGEST = "0" * 64

DraftTensor = tuple[str, Mapping[str, object], Sequence[ArraySpec]]
"""Name, descriptor as JSON, arrays in the order payload, whole rows."""


@dataclass(frozen=True)
class Draft:
    """tensors  in execution order, which is the order of their arrays in the file
    ties     lists of names, exactly one of each is a tensor
    assets   file name → content, names of a fixed list (`hgs.manifest.ASSETS`)
    plan, recipe   JSON without fractions
    """

    tensors: Sequence[DraftTensor]
    ties: Sequence[Sequence[str]] = ()
    assets: Mapping[str, bytes] = field(default_factory=dict)
    plan: Mapping[str, object] = field(default_factory=dict)
    recipe: Mapping[str, object] = field(default_factory=dict)

    def specs(self) -> Iterator[ArraySpec]:
        """All arrays in file order, without padding."""
        for _, _, arrays in self.tensors:
            yield from arrays
        for name in sorted(self.assets):
            if self.assets[name]:
                yield f"{ASSET}{name}", "U8", (len(self.assets[name]),)
        yield DAMAGE, "U8", (DAMAGE_BYTES,)
        yield TAIL, "U8", (TAIL_BYTES,)

    def manifest(
        self, digests: Mapping[str, str] | None = None, descriptors: Mapping[str, dict] | None = None
    ) -> Manifest:
        """With the tensors' digests and final descriptors, or with room for them."""
        digests, descriptors = digests or {}, descriptors or {}
        return Manifest(
            tensors={
                name: TensorEntry(
                    descriptors.get(name, dict(descriptor)),
                    digests.get(name, _NO_DIGEST),
                    tuple(array for array, _, _ in arrays),
                )
                for name, descriptor, arrays in self.tensors
            },
            ties=tuple(tuple(names) for names in self.ties),
            assets={
                name: AssetEntry(len(data), blake3(data).hexdigest()) for name, data in self.assets.items()
            },
            plan=dict(self.plan),
            recipe=dict(self.recipe),
        )


@dataclass(frozen=True)
class Layout:
    """header_length: JSON and spaces; room: spaces; arrays: in file order, offsets from the first."""

    header_length: int
    room: int
    arrays: list[ArrayInfo]

    @property
    def begin(self) -> int:
        """Where the first array begins."""
        return 8 + self.header_length

    @property
    def size(self) -> int:
        return self.begin + self.arrays[-1].end


def lay_out(draft: Draft, reserve: int = 0) -> Layout:
    """Place everything. FormatError where the draft is no valid file, so that nothing fails hours later.

    reserve: bytes of header beyond what the draft needs now.
    """
    names = [name for name, _, _ in draft.tensors]
    if len(set(names)) != len(names):
        raise FormatError(
            "a tensor stands twice", got=next(n for n in names if names.count(n) > 1), code="DUP"
        )
    check_free_json(draft.plan, "plan")
    check_free_json(draft.recipe, "recipe")
    arrays = place(draft.specs())
    if len({array.name for array in arrays}) != len(arrays):
        raise FormatError("two arrays have one name", code="DUP")
    text = build_header(arrays, draft.manifest().to_text())
    length = header_bytes(len(text) + SLACK * len(names) + reserve)
    if length > MAX_HEADER:
        remedy = "tensors of one shape can be stacked into one"
        raise FormatError(
            "header is too long", got=length, expected=f"at most {MAX_HEADER}", remedy=remedy, code="LIMIT"
        )
    layout = Layout(length, length - len(text), arrays)
    parse_header(length.to_bytes(8, "little") + text.encode().ljust(length), layout.size)
    return layout


def total_size(draft: Draft, reserve: int = 0) -> int:
    """Exact length of the file in bytes."""
    return lay_out(draft, reserve).size


def overhead(draft: Draft, reserve: int = 0) -> int:
    """Bytes of everything but the tensors' arrays, each of which is rounded up to 64."""
    layout = lay_out(draft, reserve)
    stored = sum(
        round_up(array_nbytes(name, dtype, shape), ALIGN)
        for _, _, arrays in draft.tensors
        for name, dtype, shape in arrays
    )
    return layout.size - stored
