"""The decode operation that compilers see."""

from __future__ import annotations

import pytest
import torch
from packed_samples import CODECS, packed

from higgsx.kernels import ops, reference
from higgsx.kernels.compiled import text_of


def arguments(codec, axes: str):
    weight = packed(codec, axes, torch.bfloat16)
    arrays = [weight.arrays[suffix] for suffix in sorted(weight.arrays)]
    return weight, (arrays, text_of(weight.descriptor), torch.bfloat16)


def test_equals_the_reference():
    for codec in CODECS:
        for axes in ("oi", "io", "eoi"):
            weight, args = arguments(codec, axes)
            assert torch.equal(torch.ops.higgsx.decode(*args), reference.decode(weight))


def test_passes_the_checks_of_torch():
    _, args = arguments(CODECS[0], "oi")
    torch.library.opcheck(
        torch.ops.higgsx.decode.default, args, test_utils=("test_schema", "test_faketensor")
    )


def test_shape_without_values():
    weight, (arrays, text, dtype) = arguments(CODECS[0], "eoi")
    got = torch.ops.higgsx.decode([array.to("meta") for array in arrays], text, dtype)
    assert got.is_meta and got.dtype == dtype and tuple(got.shape) == tuple(weight.shape)


def test_linear_passes_the_checks_of_torch():
    for codec in CODECS[:2]:
        for axes in ("oi", "io"):
            _, (arrays, text, _) = arguments(codec, axes)
            x, bias = torch.randn(2, 3, 200, requires_grad=True), torch.randn(37, requires_grad=True)
            for one in (bias, None):
                torch.library.opcheck(
                    torch.ops.higgsx.linear.default, (x, arrays, text, torch.float32, one),
                    test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
                )  # fmt: skip


@pytest.mark.parametrize("axes", ["oi", "io"])
def test_linear_computes_and_differentiates_as_outside(axes: str):
    weight, (arrays, text, dtype) = arguments(CODECS[0], axes)

    def outside(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return ops.linear(x, weight, bias)

    def inside(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.ops.higgsx.linear(x, arrays, text, dtype, bias)

    found = []
    for call in (inside, outside):
        torch.manual_seed(0)
        x, bias = torch.randn(2, 3, 200, requires_grad=True), torch.randn(37, requires_grad=True)
        y = call(x, bias)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, bias.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert found[0][1].any()
