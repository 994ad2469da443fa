"""The operations of `ops.py` as `torch.compile` and `torch.export` see them.

Arguments of an operation are tensors and plain values, so the descriptor travels as its JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F

from higgsx.descriptor import Descriptor
from higgsx.kernels.ops import conv, decode, embedding, linear, matmul
from higgsx.kernels.packed import Packed


def text_of(descriptor: Descriptor) -> str:
    """The descriptor as one argument of these operations; makes sure that they exist."""
    _library()
    text = json.dumps(descriptor.to_json(), sort_keys=True, separators=(",", ":"))
    _known.setdefault(text, descriptor)
    return text


_known: WeakValueDictionary[str, Descriptor] = WeakValueDictionary()
"""So that inside and outside a graph it is the same object: kernels remember weights by it."""


def _descriptor(text: str) -> Descriptor:
    return _known.get(text) or _parsed(text)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Descriptor:
    return Descriptor.from_json(json.loads(text))


def _named(arrays: list[torch.Tensor], descriptor: Descriptor) -> Mapping[str, torch.Tensor]:
    return dict(zip(sorted(descriptor.arrays()), arrays, strict=True))


def _packed(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> Packed:
    what = _descriptor(descriptor)
    return Packed(what, _named(arrays, what), dtype)


def _decode(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    return decode(_packed(arrays, descriptor, dtype))


def _decode_fake(arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(_descriptor(descriptor).shape, dtype=dtype, device=arrays[0].device)


def _product(
    operation: Callable[..., torch.Tensor],
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    return operation(x, _packed(arrays, descriptor, dtype), bias)


def _product_fake(
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], _descriptor(descriptor).matrix.outputs))


def _embedding(
    ids: torch.Tensor, arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype
) -> torch.Tensor:
    return embedding(ids, _packed(arrays, descriptor, dtype))


def _embedding_fake(
    ids: torch.Tensor, arrays: list[torch.Tensor], descriptor: str, dtype: torch.dtype
) -> torch.Tensor:
    return arrays[0].new_empty((*ids.shape, _descriptor(descriptor).matrix.inputs), dtype=dtype)


def _conv(
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
    *sizes: list[int],
) -> torch.Tensor:
    return conv(x, _packed(arrays, descriptor, dtype), bias, *sizes).contiguous()


def _conv_fake(
    x: torch.Tensor,
    arrays: list[torch.Tensor],
    descriptor: str,
    dtype: torch.dtype,
    bias: torch.Tensor | None,
    *sizes: list[int],
) -> torch.Tensor:
    weight = x.new_empty(_descriptor(descriptor).shape)
    functions: dict[int, Callable[..., torch.Tensor]] = {3: F.conv1d, 4: F.conv2d}
    return x.new_empty(functions[weight.dim()](x, weight, None, *sizes).shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, arrays, ctx.descriptor, ctx.dtype, bias = inputs
    ctx.count, ctx.has_bias = len(arrays), bias is not None
    ctx.save_for_backward(*arrays)


def _product_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
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
    weight = "Tensor[] arrays, str descriptor, ScalarType dtype"
    sizes = "int[] stride, int[] padding, int[] dilation"
    _add(library, f"decode({weight}) -> Tensor", _decode, _decode_fake)
    _add(library, f"embedding(Tensor ids, {weight}) -> Tensor", _embedding, _embedding_fake)
    _add(library, f"conv(Tensor x, {weight}, Tensor? bias, {sizes}) -> Tensor", _conv, _conv_fake)
    for operation in (linear, matmul):
        name = operation.__name__
        real = partial(_product, operation)
        _add(library, f"{name}(Tensor x, {weight}, Tensor? bias) -> Tensor", real, _product_fake)
        torch.library.register_autograd(
            f"higgsx::{name}", _product_backward, setup_context=_keep, lib=library
        )
    return library


def _add(
    library: torch.library.Library, schema: str, real: Callable[..., Any], fake: Callable[..., Any]
) -> None:
    library.define(schema)
    name = schema.partition("(")[0]
    library.impl(name, real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"higgsx::{name}", fake, lib=library)
