"""Bytes and distortion of every code on four synthetic matrices, as `codecs.csv` has them.

A change of this table is a change of what users get: look at the diff, then run this file as a program to
write it anew.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from blake3 import blake3

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import BLOCKS, PanelCodec
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.rtn import rtn
from higgsx.transforms.hadamard import Hadamard

TABLE = Path(__file__).with_name("codecs.csv")


def forms() -> Iterator[PanelCodec]:
    for block in BLOCKS:
        yield from (Uniform.symmetric(bits, block) for bits in BITS)
        yield from (Codebook.plain(table, block) for table in TABLES)
    yield Uniform(4, 32, "f16", "none", 16, 0)
    for zero in ("u8", "f16", "min"):
        yield Uniform(4, 64, "f16", zero, 0, 0)
        yield Uniform(4, 128, "u8", zero, 0, 0)


def integers(count: int) -> torch.Tensor:
    """Whole numbers below 2^16 that look random: exact on every machine and for every version of torch."""
    digest = blake3(b"regression").digest(length=2 * count)
    return torch.frombuffer(bytearray(digest), dtype=torch.int16).to(torch.int32) & 0xFFFF


def matrices() -> dict[str, torch.Tensor]:
    """float32 `[inputs, rows]`; sums and products of small numbers, so exact too."""
    bell = (integers(4 * 330 * 24).view(4, 330, 24) - 32767.5).sum(0) * 2.0**-20
    outliers = bell.clone()
    outliers[::37] *= 16
    shifted = bell * torch.linspace(0.25, 4, 24).round(decimals=2) + 0.0625
    mixed = Hadamard(128, "regression").encode(outliers.clone())
    return {"bell": bell, "outliers": outliers, "shifted": shifted, "outliers, mixed": mixed}


def rows() -> list[dict[str, str]]:
    found = []
    for name, x in matrices().items():
        for form in forms():
            codec = dataclasses.replace(form, exponent=exponent_for(form, x.abs().max()))  # type: ignore[type-var]
            payload, of_rows = codec.pack(*rtn(codec, x))
            arrays = {"_hgs": payload} if of_rows is None else {"_hgs": payload, "_hgsr": of_rows}
            decoded = codec.decode(arrays, MatrixShape(x.shape[1], x.shape[0])).t()
            error = (decoded.double() - x).square().sum() / x.double().square().sum()
            digest = blake3(b"".join(array.numpy().tobytes() for array in arrays.values())).hexdigest()
            found.append({
                "matrix": name, "codec": form.id, "form": form.label,
                "bytes": str(sum(array.nbytes for array in arrays.values())),
                "error": f"{float(error):.4g}", "digest": digest[:12],
            })  # fmt: skip
    return found


def test_bytes_and_distortion_are_as_before() -> None:
    with TABLE.open(newline="", encoding="utf-8") as file:
        before = list(csv.DictReader(file))
    now = rows()
    assert len(now) == len(before)
    changed = [(old, new) for old, new in zip(before, now, strict=True) if old != new]
    assert not changed, f"{len(changed)} rows differ, first: {changed[0]}"


if __name__ == "__main__":
    table = rows()
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
