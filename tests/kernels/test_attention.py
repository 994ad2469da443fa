"""Our attention against that of torch, on views as models make them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from higgsx.kernels import native
from higgsx.kernels.attention import attention, declines_attention
from higgsx.kernels.precision import precision

pytestmark = pytest.mark.skipif(
    native.available() is not None, reason=f"no native kernels: {native.available()}"
)
NEAR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
ROUNDED = {"float": 0.0, "int8": 3e-3, "fast": 0.12}
"""Of single results, where products are of whole numbers; what that costs is bounded in native/."""
TOGETHER = {"float": 0.0, "int8": 1e-3, "fast": 2e-2}
"""Of all results, relative to their length."""


def heads(tokens: int, count: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """`[2, heads, tokens, dim]`, as a view of what a linear layer gives."""
    return torch.randn(2, tokens, count, dim).to(dtype).transpose(1, 2)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("exactly", ROUNDED)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys", "many", "few", "dim"), [
    (1, 1, 2, 2, 16), (7, 7, 4, 2, 32), (33, 33, 6, 1, 24), (1, 50, 8, 8, 64), (70, 70, 3, 3, 80),
])  # fmt: skip
def test_equals_that_of_torch(
    dtype, exactly: str, causal: bool, queries: int, keys: int, many: int, few: int, dim: int
):
    torch.manual_seed(0)
    if causal and keys != queries:
        keys = queries
    q, k, v = heads(queries, many, dim, dtype), heads(keys, few, dim, dtype), heads(keys, few, dim, dtype)
    for scale in (None, 0.3):
        with precision(exactly):
            got = attention(q, k, v, scale, causal, rounds=True)
        exact = F.scaled_dot_product_attention(
            q.double(), k.double(), v.double(), is_causal=causal, scale=scale, enable_gqa=True
        )
        assert got.is_contiguous() and got.dtype == dtype
        near = max(NEAR[dtype], ROUNDED[exactly])
        found = got.transpose(1, 2).double()
        torch.testing.assert_close(found, exact, rtol=near, atol=near)
        assert (found - exact).norm() <= (NEAR[dtype] + TOGETHER[exactly]) * exact.norm()


def test_what_is_declined():
    q, k = heads(5, 4, 16, torch.float32), heads(5, 2, 16, torch.float32)
    assert declines_attention(q, k, k, True) is None
    longer = heads(9, 2, 16, torch.float32)
    cases = [
        (q, longer, longer, True),  # an earlier part of the text is in the cache: whoever calls has a mask
        (q, k.half(), k.half(), False),
        (q.double(), k.double(), k.double(), False),
        (q, heads(5, 3, 16, torch.float32), heads(5, 3, 16, torch.float32), False),
        (q.clone().requires_grad_(), k, k, False),
        (q.mT.contiguous().mT, k, k, False),
        (q.to("meta"), k.to("meta"), k.to("meta"), False),
    ]
    for arguments in cases:
        assert declines_attention(*arguments) is not None
