"""The grids: nearest levels are nearest, constants fit what the encoder does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.gaussian import GAUSSIAN_ERROR
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import BLOCKS, PanelCodec
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.rtn import rtn

GRIDS: list[PanelCodec] = [
    *(Codebook.plain(table, 64) for table in TABLES),
    *(Uniform.symmetric(bits, 64) for bits in BITS),
    Uniform(4, 32, "f16", "none", 16, 0),
    Uniform(4, 32, "f16", "min", 0, 0),
]


@pytest.mark.parametrize("codec", GRIDS, ids=lambda codec: codec.label)
def test_nearest(codec: PanelCodec) -> None:
    levels = codec.levels()
    assert torch.equal(levels, levels.sort().values) and len(levels) == len(levels.unique())
    y = torch.cat(
        (torch.linspace(-300, 300, 60001), torch.tensor([-1e30, 1e30, float("inf"), -float("inf")]))
    )
    distances = (y[:, None] - levels).abs()
    finite = y.isfinite()
    codes = codec.nearest_codes(y)
    values = codec.nearest_values(y.clone())
    assert torch.equal(levels[codes.long()][finite], values[finite])
    near = (y - values).abs()[finite]
    assert (near <= distances.amin(1)[finite] + 2.0**-14).all()
    assert codes[-2:].tolist() == [len(levels) - 1, 0]


def test_tables_are_int8_and_fill_their_bits() -> None:
    for table in TABLES.values():
        assert all(type(level) is int and -128 <= level <= 127 for level in table)
        assert len(table) in (4, 8, 16, 32)
    for name in ("gauss4", "gauss8", "gauss16", "gauss32"):
        assert TABLES[name] == tuple(-level for level in reversed(TABLES[name]))


def test_every_form_has_its_constant() -> None:
    forms = [Uniform.symmetric(bits, block) for bits in BITS for block in BLOCKS]
    labels = {codec.label for codec in forms} | {
        Codebook.plain(t, block).label for t in TABLES for block in BLOCKS
    }
    assert labels | {"bf16", "fp16"} == set(GAUSSIAN_ERROR)
    for block in BLOCKS:
        row = [
            GAUSSIAN_ERROR[Codebook.plain(t, block).label] for t in ("gauss4", "gauss8", "gauss16", "gauss32")
        ]
        assert row == sorted(row, reverse=True)


@pytest.mark.parametrize(
    "label", ["gauss4.b128", "gauss16.b64", "gauss32.b32", "int6.b64", "int3.row", "int8.b32"]
)
def test_constants_are_what_the_encoder_does(label: str) -> None:
    family, _, form = label.partition(".")
    block = 0 if form == "row" else int(form.removeprefix("b"))
    codec: PanelCodec = (
        Codebook.plain(family, block) if family in TABLES else Uniform.symmetric(int(family[3:]), block)
    )
    x = torch.randn((2048, 96), generator=torch.Generator().manual_seed(1))
    codec = dataclasses.replace(codec, exponent=exponent_for(codec, x.abs().max()))  # type: ignore[type-var]
    payload, rows = codec.pack(*rtn(codec, x))
    decoded = codec.decode(
        {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}, MatrixShape(96, 2048)
    )
    error = float((decoded.t() - x).square().sum() / x.square().sum())
    assert codec.label == label
    assert abs(error / GAUSSIAN_ERROR[label] - 1) < 0.025
