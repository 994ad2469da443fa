"""Half-quadratic steps: never worse than where they begin, better where there are zero points."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.columns import Search, Work, stats_of
from higgsx.rounding.hqq import _Trial, hqq
from higgsx.rounding.rtn import rtn

ZEROS = [
    Uniform(4, 64, "u8", "f16", 0, 0),
    Uniform(3, 64, "f16", "min", 0, 0),
    Uniform(2, 64, "u8", "f16", 0, 0),
]
PLAIN = [Codebook.plain("gauss16", 64), Codebook.plain("gauss8", 0), Uniform.symmetric(4, 32)]
BYTES = [Uniform(4, 64, "u8", "u8", 0, 0)]


def matrix(seed: int = 0) -> torch.Tensor:
    """Normal weights with a few far outside and a mean of their own in every row."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn((256, 48), generator=draw)
    x[::37] *= 5
    return x + torch.linspace(-0.5, 0.5, 48)


def errors(codec: PanelCodec, x: torch.Tensor, found: tuple[torch.Tensor, Scales]) -> torch.Tensor:
    """Squared error of every block as it is decoded, `[blocks, rows]`."""
    payload, rows = codec.pack(*found)
    arrays = {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}
    off = codec.decode(arrays, MatrixShape(x.shape[1], x.shape[0])).t() - x
    return torch.stack([part.square().sum(0) for part in off.split(codec.block or len(x))])


def settled(codec: PanelCodec, x: torch.Tensor) -> PanelCodec:
    return dataclasses.replace(codec, exponent=exponent_for(codec, x.abs().max()))  # type: ignore[type-var]


@pytest.mark.parametrize("codec", ZEROS + PLAIN + BYTES, ids=lambda codec: codec.label)
def test_no_block_is_worse_than_with_rtn(codec: PanelCodec) -> None:
    x = matrix()
    codec = settled(codec, x)
    before, after = errors(codec, x, rtn(codec, x)), errors(codec, x, hqq(codec, x))
    assert (after <= before * 1.0001 + 1e-6).all()
    assert after.sum() < before.sum() or codec.zero == "none"


@pytest.mark.parametrize("codec", ZEROS, ids=lambda codec: codec.label)
def test_zero_points_win_several_percent(codec: PanelCodec) -> None:
    x = torch.randn((256, 64), generator=torch.Generator().manual_seed(1))
    codec = settled(codec, x)
    assert errors(codec, x, hqq(codec, x)).sum() < 0.97 * errors(codec, x, rtn(codec, x)).sum()


@pytest.mark.parametrize("codec", PLAIN, ids=lambda codec: codec.label)
def test_a_scale_alone_wins_a_little(codec: PanelCodec) -> None:
    x = torch.randn((256, 64), generator=torch.Generator().manual_seed(1))
    codec = settled(codec, x)
    assert errors(codec, x, hqq(codec, x)).sum() < errors(codec, x, rtn(codec, x)).sum()


@pytest.mark.parametrize("codec", ZEROS + PLAIN + BYTES, ids=lambda codec: codec.label)
def test_the_stored_numbers_are_ones_that_exist(codec: PanelCodec) -> None:
    x = matrix(2) * 1e-3
    codes, scales = hqq(settled(codec, x), x)
    assert int(codes.max()) < len(codec.levels())
    for values in (scales.block, scales.row, scales.zero):
        assert values is None or values.dtype in (torch.uint8, torch.float16)
        assert values is None or bool(values.float().isfinite().all())


def test_the_steps_are_the_closed_forms() -> None:
    """With a firm e out of the way (beta of nothing) a step is ordinary least squares, in float64 here."""
    x = torch.randn((64, 5), generator=torch.Generator().manual_seed(3))
    codec = Uniform(4, 64, "f16", "f16", 0, -12)
    work = Work(x.numel())
    search = Search(codec, x, stats_of(x, work), None, work)
    scale, zero = torch.full((5,), 0.3), torch.full((5,), 7.25)
    stored, multiplier = search.store(scale)
    at = _Trial(search, stored, multiplier, zero)
    codes = (x / multiplier + zero).round().clamp(0, 15).double()
    moved = at.with_zero(beta=1e-9)
    assert moved.zero is not None
    torch.testing.assert_close(moved.zero.double(), (codes - x / multiplier).mean(0), rtol=1e-3, atol=1e-3)
    level = codes - zero
    best = (x.double() * level).sum(0) / level.square().sum(0)
    torch.testing.assert_close(at.with_scale(beta=1e-9).multiplier.double(), best, rtol=1e-3, atol=0)


def test_errors_far_out_pull_less_when_they_are_set_aside() -> None:
    """One weight far outside the grid: least squares widens the scale for it, half-quadratic steps do not."""
    x = torch.randn((128, 1), generator=torch.Generator().manual_seed(4))
    x[5] = 20.0
    codec = Uniform(4, 128, "f16", "none", 15, -12)
    work = Work(x.numel())
    search = Search(codec, x, stats_of(x, work), None, work)
    at = _Trial(search, *search.store(torch.tensor([0.3])), None)
    assert at.with_scale(beta=0.3).multiplier < at.with_scale(beta=1e-9).multiplier


def test_nothing_and_constants() -> None:
    for codec in ZEROS + PLAIN + BYTES:
        for x in (torch.zeros((64, 3)), torch.full((64, 3), -0.7)):
            codec = settled(codec, x)
            assert float(errors(codec, x, hqq(codec, x)).max()) <= 64 * (0.03 * 0.7) ** 2
