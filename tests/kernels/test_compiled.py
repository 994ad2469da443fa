"""The decode operation that compilers see."""

from __future__ import annotations

import torch
from packed_samples import CODECS, packed

from higgsx.kernels import reference
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
