"""The reference: decode, round to the run dtype, then what torch would do."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from packed_samples import CODECS, SHAPES, packed

from higgsx.codecs.table import CODECS as EVERY
from higgsx.codecs.uniform import Uniform
from higgsx.errors import ModelError
from higgsx.kernels import ops, reference

IDS = [codec.label for codec in CODECS]


@pytest.fixture(autouse=True)
def here(reference_kernels: None) -> None:
    """Everything in this file."""


def dense(weight) -> torch.Tensor:
    return weight.descriptor.decode(weight.arrays).to(weight.dtype).contiguous()


@pytest.mark.parametrize("axes", SHAPES)
@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_decode(codec, axes: str):
    weight = packed(codec, axes, torch.bfloat16)
    got = reference.decode(weight)
    assert got.dtype == torch.bfloat16 and tuple(got.shape) == SHAPES[axes]
    assert torch.equal(got, dense(weight)) and got.float().std() > 0
    # the memory layout of the original: in the last bit, products depend on it
    assert got.is_contiguous()


def test_large_weights_are_decoded_in_parts_with_the_same_values(monkeypatch: pytest.MonkeyPatch):
    weights = [packed(CODECS[0], "oi"), packed(CODECS[1], "eoi"), packed(CODECS[1], "eio")]
    whole = [reference.decode(weight) for weight in weights]
    monkeypatch.setattr(reference, "_SLAB", 1000)
    for weight, expected in zip(weights, whole, strict=True):
        assert torch.equal(reference.decode(weight), expected)


@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_products(codec):
    bias = torch.randn(37)
    x = torch.randn(2, 3, 200)
    rows, columns = packed(codec, "oi"), packed(codec, "io")
    for b in (None, bias):
        assert torch.equal(ops.linear(x, rows, b), F.linear(x, dense(rows), b))
        assert torch.equal(ops.linear(x, columns, b), F.linear(x, dense(columns).t(), b))
    assert torch.equal(ops.matmul(x, columns), x @ dense(columns))
    assert torch.equal(ops.matmul(x, rows), x @ dense(rows).t())
    assert torch.equal(ops.matmul(x[0], columns, bias), torch.addmm(bias, x[0], dense(columns)))


@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_look_up(codec):
    weight = packed(codec, "oi", torch.float16)
    ids = torch.tensor([[36, 0], [5, 36]], dtype=torch.int32)
    assert torch.equal(ops.embedding(ids, weight), F.embedding(ids, dense(weight)))
    for wrong in (-1, 37):
        with pytest.raises(IndexError, match="37 rows"):
            ops.embedding(torch.tensor([0, wrong]), weight)


def test_convolutions():
    x1, x2 = torch.randn(2, 40, 9), torch.randn(2, 40, 7, 8)
    for codec in CODECS:
        one, two, bias = packed(codec, "oik"), packed(codec, "oikk"), torch.randn(10)
        assert torch.equal(ops.conv(x1, one, bias, 2, 1, 1), F.conv1d(x1, dense(one), bias, 2, 1, 1))
        assert torch.equal(ops.conv(x2, two, None, padding="same"), F.conv2d(x2, dense(two), padding="same"))
    with pytest.raises(ModelError, match="this many dimensions"):
        ops.conv(x1, packed(CODECS[0], "oi"))


@pytest.mark.parametrize("axes", ["eoi", "eio"])
def test_an_expert_is_a_slice(axes: str):
    for codec in CODECS:
        stack = packed(codec, axes)
        for index in range(-3, 3):
            one = stack.expert(index)
            assert one.descriptor.axes == axes[1:]
            assert torch.equal(reference.decode(one), dense(stack)[index])
            assert one.arrays["_hgs"].data_ptr() == stack.arrays["_hgs"][index].data_ptr()
    with pytest.raises(IndexError):
        stack.expert(3)


@pytest.mark.parametrize("axes", ["oi", "io"])
def test_gradients(axes: str):
    weight = packed(CODECS[4], axes)
    matrix = dense(weight) if axes == "oi" else dense(weight).t()
    got, expected = [], []
    for grads, product in (
        (got, lambda x, b: ops.linear(x, weight, b)),
        (expected, lambda x, b: F.linear(x, matrix, b)),
    ):
        torch.manual_seed(0)
        x, bias = torch.randn(2, 3, 200, requires_grad=True), torch.randn(37, requires_grad=True)
        product(x, bias).square().sum().backward()
        grads += [x.grad, bias.grad]
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other)


def test_only_a_bias_may_need_a_gradient():
    weight, bias = packed(CODECS[0]), torch.zeros(37, requires_grad=True)
    ops.linear(torch.ones(200), weight, bias).sum().backward()
    assert torch.equal(bias.grad, torch.ones(37))


def test_meta_gives_shapes():
    weight = packed(CODECS[0])
    empty = dataclasses.replace(
        weight, arrays={suffix: array.to("meta") for suffix, array in weight.arrays.items()}
    )
    assert reference.decode(empty).shape == (37, 200) and reference.decode(empty).is_meta
    assert ops.linear(torch.empty(2, 200, device="meta"), empty).shape == (2, 37)
    assert ops.embedding(torch.empty(4, dtype=torch.long, device="meta"), empty).shape == (4, 200)


def test_any_bytes_of_the_right_size_are_safe():
    generator = torch.Generator().manual_seed(0)
    for codec in CODECS:
        weight = packed(codec)
        noise = {
            suffix: torch.randint(0, 256, array.shape, dtype=torch.uint8, generator=generator)
            for suffix, array in weight.arrays.items()
        }
        assert reference.decode(dataclasses.replace(weight, arrays=noise)).shape == (37, 200)


def test_samples_cover_every_packed_codec():
    assert {type(codec) for codec in CODECS} == {codec for codec in EVERY if codec.id != "dense"}
    assert any(isinstance(codec, Uniform) and codec.zero != "none" for codec in CODECS)
