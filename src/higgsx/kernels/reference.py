"""The truth: decode to float32, round to the run dtype, then the torch operation of the original model.

Every other kernel is judged by these. They run on any device that torch knows, and they are slow: each call
decodes the whole weight (a look-up decodes only its rows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from higgsx.errors import ModelError
from higgsx.kernels.packed import Packed

_SLAB = 1 << 22
"""Weights decoded to float32 at a time, so that the temporary stays small beside the result."""
_PANEL = 16
"""Rows are decoded in whole panels of the payload."""

Sizes = int | str | Sequence[int]
"""Stride, padding or dilation of a convolution, as torch takes it."""


def decode(packed: Packed) -> torch.Tensor:
    """The dense weight in its original shape and the run dtype."""
    descriptor = packed.descriptor
    if packed.device.type == "meta":
        return torch.empty(packed.shape, dtype=packed.dtype, device="meta")
    if descriptor.axes == "oi" and packed.shape.numel() > _SLAB:
        return _decode_rows(packed)
    if descriptor.axes in ("eoi", "eio") and packed.shape.numel() > _SLAB:
        out = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
        for index in range(packed.shape[0]):
            out[index] = decode(packed.expert(index))
        return out
    # a transposed matrix gets the memory layout of the original: products depend on it in the last bit
    return descriptor.decode(packed.arrays).to(packed.dtype).contiguous()


def _decode_rows(packed: Packed) -> torch.Tensor:
    outputs, inputs = packed.shape
    out = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    step = max(1, _SLAB // inputs // _PANEL) * _PANEL
    for begin in range(0, outputs, step):
        rows = torch.arange(begin, min(begin + step, outputs), device=packed.device)
        out[begin : begin + step] = packed.descriptor.decode_rows(packed.arrays, rows)
    return out


def linear(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """`[.., inputs]` → `[.., outputs]`, as `F.linear` computes it."""
    weight, bias = _like(x, decode(packed), bias)
    return F.linear(x, weight.t() if packed.inputs_first else weight, bias)


def matmul(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """The same product as `torch.matmul` or, with a bias, `torch.addmm` compute it (bits may differ)."""
    weight, bias = _like(x, decode(packed), bias)
    matrix = weight if packed.inputs_first else weight.t()
    return torch.matmul(x, matrix) if bias is None else torch.addmm(bias, x, matrix)


def _like(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias in the dtype of the activations: training feeds float32 into a bfloat16 model."""
    if weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type):
        return weight, bias
    return weight.to(x.dtype), None if bias is None else bias.to(x.dtype)


def embedding(ids: torch.Tensor, packed: Packed) -> torch.Tensor:
    """`[..]` whole numbers → `[.., inputs]`; only the rows that were asked for are decoded."""
    rows, inputs = packed.shape
    if packed.device.type == "meta" or ids.numel() == 0:
        return torch.empty((*ids.shape, inputs), dtype=packed.dtype, device=packed.device)
    flat = ids.reshape(-1).long()
    # elsewhere the gather itself refuses; asking there would wait for the device
    if flat.device.type == "cpu" and not 0 <= int(flat.min()) <= int(flat.max()) < rows:
        raise IndexError(
            f"index out of range: a table of {rows} rows was asked for {int(flat.min())} to {int(flat.max())}"
        )
    return packed.descriptor.decode_rows(packed.arrays, flat).to(packed.dtype).view(*ids.shape, inputs)


def conv(
    x: torch.Tensor, packed: Packed, bias: torch.Tensor | None, stride: Sizes, padding: Sizes, dilation: Sizes
) -> torch.Tensor:
    """Convolution of one group over one or two dimensions."""
    weight, bias = _like(x, decode(packed), bias)
    functions: dict[int, Callable[..., torch.Tensor]] = {3: F.conv1d, 4: F.conv2d}
    if weight.dim() not in functions:
        raise ModelError("convolution over this many dimensions", got=weight.dim() - 2, expected="1 or 2")
    return functions[weight.dim()](x, weight, bias, stride, padding, dilation)
