"""Softmax attention by the native library, over strided tensors: nothing is repeated or copied.

Whole numbers of 16 bits can be multiplied in place of binary32: on x86 one multiplication does twice the
work, and the rounding is far finer than that of the activations where products round those. Queries and keys
of 8 bits are as coarse as activations, and do twice the work once more.
"""

from __future__ import annotations

import torch

from higgsx.kernels import native, precision, team
from higgsx.kernels.cpu import DTYPES, declines_tensor
from higgsx.kernels.structs import FLOAT, INT8, INT16

_ROUNDED = {"float": FLOAT, "int8": INT16, "fast": INT8}
"""Precision: the mode where products round."""
_MOST = 1024
"""Numbers of a head that the library takes."""


def declines_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> str | None:
    """None, or why these are not served.

    q `[batch, heads, queries, dim]`, k and v `[batch, kv_heads, keys, dim]`
    """
    missing = native.available()
    if missing is not None:
        return missing
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return "gradients are wanted"
    if q.dtype != k.dtype or k.dtype != v.dtype or k.shape != v.shape or q.dim() != 4 or k.dim() != 4:
        return "tensors of different kinds"
    batch, heads, queries, dim = q.shape
    if k.shape[0] != batch or k.shape[3] != dim or heads % k.shape[1] or not 0 < dim <= _MOST:
        return "shapes do not fit"
    if k.shape[2] == 0 or (causal and k.shape[2] != queries):
        return "keys and queries do not fit"
    if any(x.stride(3) != 1 for x in (q, k, v)):
        return "heads do not lie in order"
    return declines_tensor(q) or declines_tensor(k) or declines_tensor(v)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None = None,
    causal: bool = False,
    rounds: bool = False,
) -> torch.Tensor:
    """`[batch, queries, heads, dim]`, contiguous.

    scale   None: 1/√dim
    causal  query i sees keys up to i
    rounds  to 16 bits; queries and keys to 8 where the precision is "fast", nothing where it is "float"
            (`higgsx.kernels.precision`)
    """
    library = team.library()
    batch, heads, queries, dim = q.shape
    out = q.new_empty((batch, queries, heads, dim))
    strides = [native.Strides(*x.stride()[:3]) for x in (q, k, v, out.transpose(1, 2))]
    status = library.hgx_attention(
        batch, heads, k.shape[1], queries, k.shape[2], dim,
        q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), DTYPES[q.dtype],
        *map(native.address_of, strides), dim**-0.5 if scale is None else scale, int(causal),
        _ROUNDED[precision.current()] if rounds else FLOAT,
    )  # fmt: skip
    library.check(status, "attention")
    return out
