"""Bytes and distortion of every code on four synthetic matrices, as `codecs.csv` has them.

A change of this table is a change of what users get: look at the diff, then run this file as a program to
write it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from blake3 import blake3
from kept import measured, require_as_before, write

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import BLOCKS, PanelCodec
from higgsx.codecs.uniform import BITS, Uniform
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
    return [
        {"matrix": name, "codec": form.id, "form": form.label, **measured(form, x, rtn)}
        for name, x in matrices().items()
        for form in forms()
    ]


def test_bytes_and_distortion_are_as_before() -> None:
    require_as_before(TABLE, rows())


if __name__ == "__main__":
    write(TABLE, rows())
