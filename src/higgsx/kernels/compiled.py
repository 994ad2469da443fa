"""The operations that `torch.compile` and `torch.export` see instead of a virtual weight: `decode`, and
`linear` for modules that are nothing but a linear layer.

Arguments of an operation are tensors and plain values, so the descriptor travels as its JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from higgsx.descriptor import Descriptor
from higgsx.kernels.ops import decode, linear
from higgsx.kernels.packed import Packed


def text_of(descriptor: Descriptor) -> str:
    """The descriptor as one argument of these operations; makes sure that they exist."""
    _library()
    return json.dumps(descriptor.to_json(), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096)
def _descriptor(text: str) -> Descriptor:
    return Descriptor.from_json(json.loads(text))


def _named(arrays: list[torch.Tensor], descriptor: Descriptor) -> Mapping[str, torch.Tensor]:
    return dict(zip(sorted(descriptor.arrays()), arrays, strict=True))


def _decode(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    what = _descriptor(descriptor)
    return decode(Packed(what, _named(arrays, what), dtype))


def _decode_fake(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(_descriptor(descriptor).shape, dtype=dtype, device=arrays[0].device)


def _linear(
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    what = _descriptor(descriptor)
    return linear(x, Packed(what, _named(arrays, what), dtype), bias)


def _linear_fake(
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], _descriptor(descriptor).matrix.outputs))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, arrays, ctx.descriptor, ctx.dtype, bias = inputs
    ctx.count, ctx.has_bias = len(arrays), bias is not None
    ctx.save_for_backward(*arrays)


def _linear_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    to_x = to_bias = None
    if ctx.needs_input_grad[0]:
        weight = torch.ops.higgsx.decode(list(ctx.saved_tensors), ctx.descriptor, ctx.dtype)
        rows_first = not _descriptor(ctx.descriptor).axes.endswith("io")
        to_x = grad.matmul((weight if rows_first else weight.t()).to(grad.dtype))
    if ctx.has_bias and ctx.needs_input_grad[4]:
        to_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
    return to_x, [None] * ctx.count, None, None, to_bias


@lru_cache(maxsize=1)
def _library() -> torch.library.Library:
    """Registered when the first weight is packed: importing starts nothing."""
    library = torch.library.Library("higgsx", "FRAGMENT")
    library.define("decode(Tensor[] arrays, str descriptor, ScalarType dtype) -> Tensor")
    library.impl("decode", _decode, "CompositeExplicitAutograd")
    torch.library.register_fake("higgsx::decode", _decode_fake, lib=library)
    library.define(
        "linear(Tensor x, Tensor[] arrays, str descriptor, ScalarType dtype, Tensor? bias) -> Tensor"
    )
    library.impl("linear", _linear, "CompositeExplicitAutograd")
    torch.library.register_fake("higgsx::linear", _linear_fake, lib=library)
    torch.library.register_autograd("higgsx::linear", _linear_backward, setup_context=_keep, lib=library)
    return library
