"""What every codec of the table promises."""

from __future__ import annotations

import json

import pytest
import torch
from samples import ALL, INSTANCES, SHAPES, encode, name

from higgsx.codecs.base import Codec, MatrixShape, torch_dtype
from higgsx.codecs.table import BY_ID, CODECS, codec_from
from higgsx.errors import FormatError

codecs = pytest.mark.parametrize("codec", ALL, ids=name)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=name)


def weights_of(shape: MatrixShape, seed: int = 0) -> torch.Tensor:
    return torch.randn((shape.outputs, shape.inputs), generator=torch.Generator().manual_seed(seed)) * 0.04


def test_every_codec_is_tried() -> None:
    assert set(CODECS) == set(INSTANCES)


@codecs
@shapes
def test_declared_arrays_are_what_is_stored(codec: Codec, shape: MatrixShape) -> None:
    settled, arrays = encode(codec, weights_of(shape))
    declared = settled.arrays(shape)
    assert list(declared) == list(arrays)
    for suffix, array in arrays.items():
        assert tuple(array.shape) == declared[suffix].shape
        assert array.dtype == torch_dtype(declared[suffix].dtype)
    assert settled.nbytes(shape) == sum(array.nbytes for array in arrays.values()) == codec.nbytes(shape)


@codecs
@shapes
def test_what_comes_back_is_near(codec: Codec, shape: MatrixShape) -> None:
    weights = weights_of(shape)
    settled, arrays = encode(codec, weights)
    decoded = settled.decode(arrays, shape)
    assert decoded.dtype == torch.float32 and decoded.shape == weights.shape
    # the coarsest code there is, a whole row at two bits, loses 12 % of the squares, with a zero point 20 %
    assert (decoded - weights).square().sum() <= 0.25 * weights.square().sum()
    assert settled.check(arrays, shape) == []


@codecs
@shapes
def test_rows_are_those_of_the_whole(codec: Codec, shape: MatrixShape) -> None:
    settled, arrays = encode(codec, weights_of(shape))
    whole = settled.decode(arrays, shape)
    rows = torch.tensor([shape.outputs - 1, 0, shape.outputs // 2, 0])
    assert torch.equal(settled.decode_rows(arrays, shape, rows), whole[rows])
    assert settled.decode_rows(arrays, shape, rows[:0]).shape == (0, shape.inputs)


@codecs
def test_experts_are_matrices_beside_each_other(codec: Codec) -> None:
    single = MatrixShape(20, 72)
    settled, first = encode(codec, weights_of(single, 1))
    second = encode(settled, weights_of(single, 1).flip(0))[1]
    stack = {suffix: torch.stack((first[suffix], second[suffix])) for suffix in first}
    shape = MatrixShape(20, 72, experts=2)
    assert {suffix: tuple(array.shape) for suffix, array in stack.items()} == {
        suffix: array.shape for suffix, array in settled.arrays(shape).items()
    }
    decoded = settled.decode(stack, shape)
    assert torch.equal(decoded[0], settled.decode(first, single))
    assert torch.equal(decoded[1], settled.decode(second, single))
    assert settled.check(stack, shape) == []


@codecs
def test_parameters_go_through_json(codec: Codec) -> None:
    text = json.dumps(codec.params())
    assert codec_from(codec.id, json.loads(text)) == codec
    assert all(type(value) in (int, str) for value in codec.params().values())


@codecs
def test_wrong_parameters_are_refused(codec: Codec) -> None:
    good = codec.params()
    for key in good:
        for wrong in (None, [], {}, 1.0, True, -(10**9), 10**9, "", "F33", [1]):
            with pytest.raises(FormatError) as caught:
                codec_from(codec.id, {**good, key: wrong})
            assert caught.value.code == "CODEC"
        with pytest.raises(FormatError):
            codec_from(codec.id, {other: value for other, value in good.items() if other != key})
    with pytest.raises(FormatError):
        codec_from(codec.id, {**good, "more": 1})


def test_unknown_codec_is_refused() -> None:
    with pytest.raises(FormatError) as caught:
        codec_from("morse", {})
    assert caught.value.code == "CODEC" and all(known in str(caught.value) for known in BY_ID)


@codecs
def test_what_cannot_be_held_has_a_reason(codec: Codec) -> None:
    shape = MatrixShape(16, 64)
    assert codec.accepts(shape, "BF16") is None
    reason = codec.accepts(shape, "I64")
    assert reason is not None and "I64" in reason


def test_labels_are_unique() -> None:
    labels = [codec.label for codec in ALL if not (codec.id == "uniform" and codec.params()["centre"] == 16)]
    assert len(set(labels)) == len(labels)


@codecs
def test_sizes_of_absurd_shapes_cost_nothing(codec: Codec) -> None:
    """A header may claim any shape: its size is arithmetic, not a list as long as the row."""
    shape = MatrixShape(1 << 40, (1 << 40) + 7)
    assert codec.nbytes(shape) > 1 << 70


@codecs
@pytest.mark.parametrize("magnitude", [1e-42, 1e-30, 1e-3, 1.0, 1e4, 3e15])
def test_magnitudes(codec: Codec, magnitude: float) -> None:
    """Nothing stored is infinite; what float16 scales and their exponent can reach keeps its precision."""
    if codec.id == "dense" and magnitude > 1e4:
        return
    shape = MatrixShape(18, 96)
    weights = weights_of(shape) / 0.16 * magnitude
    settled, arrays = encode(codec, weights)
    decoded = settled.decode(arrays, shape)
    assert bool(decoded.isfinite().all()) and settled.check(arrays, shape) == []
    if (
        codec.id != "dense"
        and magnitude > 1e-12
        and codec.params()["zero" if codec.id == "uniform" else "table"] != "min"
    ):
        assert (decoded - weights).double().square().sum() <= 0.25 * weights.double().square().sum()


@codecs
def test_zero_rows_decode_to_zero(codec: Codec) -> None:
    weights = weights_of(MatrixShape(18, 200))
    weights[3] = 0.0
    weights[17] = 0.0
    weights[5, 64:] = 0.0
    settled, arrays = encode(codec, weights)
    decoded = settled.decode(arrays, MatrixShape(18, 200))
    assert not decoded[3].any() and not decoded[17].any()
    assert settled.check(arrays, MatrixShape(18, 200)) == []
    nothing = torch.zeros((4, 40))
    settled, arrays = encode(codec, nothing)
    assert not settled.decode(arrays, MatrixShape(4, 40)).any()
