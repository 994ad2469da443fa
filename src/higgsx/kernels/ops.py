"""What can be computed with a compressed weight. Each call takes the kernel that `select` chooses.

Weights are frozen: gradients flow to activations and biases. The backward pass decodes again instead of
keeping the dense weight alive between the passes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from higgsx.errors import UsageError
from higgsx.kernels.packed import Packed
from higgsx.kernels.precision import precision
from higgsx.kernels.reference import Sizes
from higgsx.kernels.select import REFERENCE, chosen

__all__ = ["conv", "decode", "embedding", "forced", "linear", "matmul", "precision", "watched"]
_log = logging.getLogger("higgsx")


def decode(packed: Packed) -> torch.Tensor:
    """The dense weight, original shape, run dtype."""
    return _run("decode", packed, packed)


def linear(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`[.., inputs]` → `[.., outputs]`: x times the transposed weight, plus bias."""
    return _product("linear", x, packed, bias)


def matmul(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The same product; the reference rounds it as `torch.matmul` and `torch.addmm` do."""
    return _product("matmul", x, packed, bias)


def embedding(ids: torch.Tensor, packed: Packed) -> torch.Tensor:
    """`[..]` row numbers → `[.., inputs]`. IndexError for a row that is not there."""
    return _run("embedding", packed, ids, packed)


def conv(
    x: torch.Tensor,
    packed: Packed,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
) -> torch.Tensor:
    """Convolution of one group over one or two dimensions; arguments as in torch."""
    return _run("conv", packed, x, packed, bias, stride, padding, dilation)


_watched: ContextVar[list[tuple[str, str]] | None] = ContextVar("watched", default=None)
_forced: ContextVar[str | None] = ContextVar("forced", default=None)


@contextmanager
def watched() -> Iterator[list[tuple[str, str]]]:
    """(operation, kernel name) of every call inside the block, in order."""
    seen: list[tuple[str, str]] = []
    token = _watched.set(seen)
    try:
        yield seen
    finally:
        _watched.reset(token)


@contextmanager
def forced(name: str) -> Iterator[None]:
    """Every call inside the block takes the kernel of this name; UsageError where it cannot serve."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def _run(op: str, packed: Packed, *arguments: Any) -> torch.Tensor:
    force = _forced.get()
    kernel = chosen(op, packed.descriptor.codec.id, packed.device.type, force)
    if kernel.declines is not None:
        reason = kernel.declines(*arguments)
        if reason is not None:
            if force is not None:
                raise UsageError("this kernel cannot serve this call", where=op, got=f"{force} ({reason})")
            _log.debug("%s: reference, not %s: %s", op, kernel.name, reason)
            kernel = REFERENCE[op]
    seen = _watched.get()
    if seen is not None:
        seen.append((op, kernel.name))
    return kernel.function(*arguments)


def _product(op: str, x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        product: torch.Tensor = _Product.apply(x, bias, packed, op)
        return product
    return _run(op, packed, x, packed, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, bias: torch.Tensor | None, packed: Packed, op: str
    ) -> torch.Tensor:
        ctx.packed = packed  # type: ignore[attr-defined]
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        return _run(op, packed, x, packed, bias)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        to_x = to_bias = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            packed: Packed = ctx.packed  # type: ignore[attr-defined]
            weight = decode(packed).to(grad.dtype)
            to_x = grad.matmul(weight.t() if packed.inputs_first else weight)
        if ctx.has_bias and ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            to_bias = grad.flatten(0, -2).sum(0) if grad.dim() > 1 else grad
        return to_x, to_bias, None, None
