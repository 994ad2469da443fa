"""A smoke test on a GPU: the reference runs there and gives the same decoded values."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from packed_samples import CODECS, SHAPES, packed

from higgsx.kernels import ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device in this machine")


@pytest.mark.parametrize("codec", CODECS, ids=[codec.label for codec in CODECS])
def test_reference_on_cuda(codec):
    for axes in SHAPES:
        weight = packed(codec, axes)
        moved = dataclasses.replace(
            weight, arrays={key: array.cuda() for key, array in weight.arrays.items()}
        )
        assert torch.equal(ops.decode(moved).cpu(), ops.decode(weight))
    weight = packed(codec)
    moved = dataclasses.replace(weight, arrays={key: array.cuda() for key, array in weight.arrays.items()})
    x, ids = torch.randn(3, 200), torch.tensor([36, 0])
    torch.testing.assert_close(
        ops.linear(x.cuda(), moved).cpu(), F.linear(x, ops.decode(weight)), rtol=1e-3, atol=1e-3
    )
    assert torch.equal(ops.embedding(ids.cuda(), moved).cpu(), ops.embedding(ids, weight))
