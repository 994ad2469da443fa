"""Every rounding: near the best there is, bit-equal however the work is cut, never infinite."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import Uniform
from higgsx.errors import DataError, UsageError
from higgsx.rounding import columns
from higgsx.rounding import rtn as rtn_module
from higgsx.rounding.base import Choose, exponent_for
from higgsx.rounding.hqq import hqq
from higgsx.rounding.rtn import rtn
from higgsx.rounding.slab import encode_slab, inputs_first
from higgsx.rounding.table import ROUNDINGS, rounding_of
from higgsx.transforms.hadamard import Hadamard

CODECS: list[PanelCodec] = [
    Codebook.plain("gauss16", 64),
    Codebook.plain("gauss4", 32),
    Codebook.plain("iq4", 0),
    Codebook("gauss32", 128, "f16", 0),
    Uniform.symmetric(4, 128),
    Uniform.symmetric(8, 0),
    Uniform(3, 64, "u8", "u8", 0, 0),
    Uniform(4, 32, "f16", "f16", 0, 0),
    Uniform(2, 0, "f16", "min", 0, 0),
]
KNOWN_BLOCK = [[215, 227, 217], [229, 215, 213]]
KNOWN_ROW = [20625, 13750, 25672]
KNOWN_CODES = [2, 14, 8, 1, 14, 7, 1, 13, 6, 1, 12, 5, 0, 12, 4, 0, 11, 4, 15, 10, 3, 15, 9, 2]
codecs = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.label)
roundings = pytest.mark.parametrize(
    "rounding", [one.round for one in ROUNDINGS], ids=lambda one: one.__name__
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def settled(codec: PanelCodec, x: torch.Tensor) -> PanelCodec:
    return dataclasses.replace(codec, exponent=exponent_for(codec, x.abs().max()))  # type: ignore[type-var]


def decoded(codec: PanelCodec, codes: torch.Tensor, scales: Scales) -> torch.Tensor:
    payload, rows = codec.pack(codes, scales)
    arrays = {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}
    return codec.decode(arrays, MatrixShape(codes.shape[1], codes.shape[0])).t()


def parts(codes: torch.Tensor, scales: Scales) -> list[torch.Tensor]:
    found = [codes, scales.block, scales.row, scales.zero]
    return [part for part in found if part is not None]


@roundings
@pytest.mark.parametrize("codec", [c for c in CODECS if c.zero == "none"], ids=lambda codec: codec.label)
def test_no_scale_that_can_be_stored_is_much_better(rounding: Choose, codec: PanelCodec) -> None:
    """Brute force over what one block of one row could store, decoded by the codec itself."""
    width = codec.block or 256
    x = normal(width, 24, seed=7)
    codec = settled(codec, x)
    codes, scales = rounding(codec, x)
    ours = (decoded(codec, codes, scales) - x).square().sum(0)
    best = torch.full_like(ours, float("inf"))
    levels = codec.levels()
    thresholds = (levels[1:] + levels[:-1]) / 2
    if scales.block is not None and scales.row is not None:
        tries = torch.arange(0.0, 256.0)[:, None] * scales.row.float() * 2.0**codec.exponent
    else:
        centre = x.abs().amax(0) / levels.abs().max()
        tries = torch.linspace(0.35, 1.5, 400)[:, None] * centre
    for multiplier in tries:
        nearest = levels[torch.bucketize(x / multiplier.clamp_min(1e-30), thresholds)] * multiplier
        best = torch.minimum(best, (nearest - x).square().sum(0))
    assert ours.sum() <= 1.06 * best.sum()
    assert (ours <= 1.35 * best).all()


@roundings
@codecs
def test_codes_are_the_nearest_for_the_scales(rounding: Choose, codec: PanelCodec) -> None:
    x = normal(160, 20, seed=1) * 0.02
    codec = settled(codec, x)
    codes, scales = rounding(codec, x)
    error = (decoded(codec, codes, scales) - x).abs()
    top = len(codec.levels()) - 1
    for step in (-1, 1):
        moved = (codes.int() + step).clamp(0, top).to(torch.uint8)
        other = (decoded(codec, moved, scales) - x).abs()
        assert (error <= other * 1.001 + 1e-7).all()


@roundings
@codecs
def test_rows_are_rounded_alone(rounding: Choose, codec: PanelCodec) -> None:
    x = normal(300, 70, seed=2)
    codec = settled(codec, x)
    whole = parts(*rounding(codec, x))
    for begin, end in ((0, 16), (16, 33), (69, 70)):
        alone = parts(*rounding(codec, x[:, begin:end].contiguous()))
        for a, b in zip(whole, alone, strict=True):
            assert torch.equal(a[..., begin:end], b)


@roundings
@codecs
def test_pieces_and_threads_do_not_change_anything(
    rounding: Choose, codec: PanelCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = normal(500, 90, seed=3)
    codec = settled(codec, x)
    first = parts(*rounding(codec, x))
    before = torch.get_num_threads()
    try:
        for threads, piece, rows in ((2, 1 << 12, 16), (3, 1 << 14, 40)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(rtn_module, "PIECE", piece)
            monkeypatch.setattr(rtn_module, "_ROWS", rows)
            for a, b in zip(first, parts(*rounding(codec, x)), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


def test_known_bytes() -> None:
    """The same everywhere: rounded elsewhere, these numbers would differ first where something is fused."""
    x = (torch.arange(64 * 3, dtype=torch.float32).view(64, 3) * 0.37 % 1.7 - 0.85) * torch.tensor(
        [1.0, 0.01, 30.0]
    )
    codes, scales = rtn(settled(Codebook.plain("gauss16", 32), x), x)
    assert scales.block is not None and scales.row is not None
    assert scales.block.tolist() == KNOWN_BLOCK
    assert scales.row.view(torch.int16).tolist() == KNOWN_ROW
    assert codes[:24, 1].tolist() == KNOWN_CODES


@roundings
def test_scaling_by_a_power_of_two_changes_the_exponent_alone(rounding: Choose) -> None:
    x = normal(256, 40, seed=4)
    for codec in CODECS:
        if codec.zero == "min":
            continue
        one, other = settled(codec, x), settled(codec, x * 2.0**-9)
        assert other.exponent == one.exponent - 9
        for a, b in zip(parts(*rounding(one, x)), parts(*rounding(other, x * 2.0**-9)), strict=True):
            assert torch.equal(a, b)


@roundings
def test_a_block_far_smaller_than_its_row_becomes_zero_rather_than_noise(rounding: Choose) -> None:
    x = normal(128, 4, seed=5)
    x[64:] *= 1e-6
    codec = settled(Codebook.plain("gauss16", 64), x)
    codes, scales = rounding(codec, x)
    assert scales.block is not None and not scales.block[1].any() and scales.block[0].all()
    assert not decoded(codec, codes, scales)[64:].any()


@roundings
def test_constant_blocks(rounding: Choose) -> None:
    x = torch.full((64, 3), 0.3)
    x[:, 1] = -2.0
    for codec in CODECS:
        codec = settled(codec, x)
        back = decoded(codec, *rounding(codec, x))
        assert ((back - x).abs() <= 0.025 * x.abs()).all(), codec.label


@roundings
@pytest.mark.parametrize("outlier", [1e3, 1e6])
def test_outliers(rounding: Choose, outlier: float) -> None:
    """A single huge weight: the search ends at a scale that is better than giving up the row."""
    x = normal(512, 16, seed=6)
    x[100, 3] = outlier
    for codec in CODECS:
        codec = settled(codec, x)
        codes, scales = rounding(codec, x)
        error = (decoded(codec, codes, scales) - x).square().sum(0)
        assert (error < x.square().sum(0)).all(), codec.label


@roundings
def test_row_scales_of_very_different_rows(rounding: Choose) -> None:
    x = normal(256, 24, seed=8) * torch.logspace(0, -6, 24)
    for codec in (Codebook.plain("gauss16", 64), Uniform.symmetric(4, 0)):
        codec = settled(codec, x)
        back = decoded(codec, *rounding(codec, x))
        relative = (back - x).square().sum(0) / x.square().sum(0)
        assert relative.max() < 0.02


@codecs
@pytest.mark.parametrize("absmax", [1e-12, 3e-5, 0.04, 1.0, 700.0, 1e12])
def test_exponent_keeps_scales_normal(codec: PanelCodec, absmax: float) -> None:
    """From the largest weight after the widest Hadamard down to rows 2^-20 of it."""
    codec = dataclasses.replace(codec, exponent=exponent_for(codec, absmax))  # type: ignore[type-var]
    x = torch.zeros((256, 3))
    sign = torch.where(normal(256, 3) > 0, 1.0, -1.0)
    x[:, 0] = absmax * 32 * sign[:, 0]
    x[:, 1] = absmax * sign[:, 1]
    x[:, 2] = absmax * 2.0**-20 * sign[:, 2]
    _, scales = rtn(codec, x)
    stored = scales.row if scales.row is not None else scales.block
    assert stored is not None
    assert stored.abs().max() < 65504 and stored.min() >= 2.0**-14


def test_exponent_of_nothing_and_of_infinity() -> None:
    codec = Uniform.symmetric(4, 64)
    assert exponent_for(codec, 0.0) == 0
    assert exponent_for(codec, torch.tensor([0.5, -1.0])) == exponent_for(codec, 1.0)
    assert exponent_for(codec, 1e-45) >= -64 and exponent_for(codec, 3e38) <= 64
    for bad in (float("inf"), float("nan")):
        with pytest.raises(DataError):
            exponent_for(codec, bad)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 31, 32, 100, 128])
def test_halving_sum(width: int) -> None:
    x = normal(width, 9, seed=width)
    work = columns.Work(x.numel())
    expected = [list(column) for column in x.square().t()]
    for column in expected:
        while len(column) > 1:
            half = len(column) // 2
            kept = len(column) - half
            column[:] = [column[i] + column[kept + i] if i < half else column[i] for i in range(kept)]
    assert torch.equal(columns.stats_of(x, work).energy, torch.stack([column[0] for column in expected]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_slab_is_its_steps(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normal(50, 200, seed=9).to(dtype)
    codec, mix = settled(Codebook.plain("gauss16", 64), rows), Hadamard(64, "space")
    expected = codec.pack(*rtn(codec, mix.encode(rows.float().t().contiguous())))
    for weights in (1 << 19, 1):
        monkeypatch.setattr("higgsx.rounding.slab._WEIGHTS", weights)
        payload, of_rows = encode_slab(codec, mix, rows, rounding_of("rtn"))
        assert torch.equal(payload, expected[0])
        assert of_rows is not None and expected[1] is not None and torch.equal(of_rows, expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_turning_a_slab(dtype: torch.dtype) -> None:
    for rows in (
        normal(7, 10),
        normal(7, 9),
        normal(10, 7).t(),
        normal(9, 12)[2:, 1:],
        torch.full((2, 4), 1e-40),
    ):
        rows = rows.to(dtype)
        turned = inputs_first(rows)
        assert turned.is_contiguous() and torch.equal(turned, rows.float().t())
        assert torch.equal(turned.signbit(), rows.float().t().signbit())


def test_table() -> None:
    assert [rounding.name for rounding in ROUNDINGS] == ["rtn", "hqq"]
    assert all(rounding.portable for rounding in ROUNDINGS)
    assert rounding_of("rtn").round is rtn and rounding_of("hqq").round is hqq
    with pytest.raises(UsageError, match="rtn"):
        rounding_of("magic")
