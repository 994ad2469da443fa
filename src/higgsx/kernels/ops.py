"""What can be computed with a compressed weight. Each call takes the kernel that `select` chooses.

Weights are frozen: gradients flow to activations and biases. The backward pass decodes again instead of
keeping the dense weight alive between the passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from higgsx.kernels.packed import Packed
from higgsx.kernels.reference import Sizes
from higgsx.kernels.select import Function, choose


def decode(packed: Packed) -> torch.Tensor:
    """The dense weight, original shape, run dtype."""
    return _kernel("decode", packed)(packed)


def linear(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`[.., inputs]` → `[.., outputs]`: x times the transposed weight, plus bias."""
    return _product("linear", x, packed, bias)


def matmul(x: torch.Tensor, packed: Packed, bias: torch.Tensor | None = None) -> torch.Tensor:
    """The same product; the reference rounds it as `torch.matmul` and `torch.addmm` do."""
    return _product("matmul", x, packed, bias)


def embedding(ids: torch.Tensor, packed: Packed) -> torch.Tensor:
    """`[..]` row numbers → `[.., inputs]`. IndexError for a row that is not there."""
    return _kernel("embedding", packed)(ids, packed)


def conv(
    x: torch.Tensor,
    packed: Packed,
    bias: torch.Tensor | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
) -> torch.Tensor:
    """Convolution of one group over one or two dimensions; arguments as in torch."""
    return _kernel("conv", packed)(x, packed, bias, stride, padding, dilation)


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


def _kernel(op: str, packed: Packed) -> Function:
    kernel, _ = choose(op, packed.family, packed.device, _forced.get())
    seen = _watched.get()
    if seen is not None:
        seen.append((op, kernel.name))
    return kernel.function


def _product(op: str, x: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        product: torch.Tensor = _Product.apply(x, bias, packed, op)
        return product
    return _kernel(op, packed)(x, packed, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: torch.Tensor, bias: torch.Tensor | None, packed: Packed, op: str
    ) -> torch.Tensor:
        ctx.packed = packed  # type: ignore[attr-defined]
        ctx.has_bias = bias is not None  # type: ignore[attr-defined]
        return _kernel(op, packed)(x, packed, bias)

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
