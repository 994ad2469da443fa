"""A compressed weight as `torch.compile` and `torch.export` see it.

The tracer cannot follow a tensor without storage. It gets the decoded tensor, as the result of our operation
`decode`, in a class that sends the same uses to our products and look-ups as a virtual weight does. What is
left of `decode` where nobody needed the values is dead code, which compilers drop. Everything here is traced,
so it is written plainly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F


class Entry(Protocol):
    """See `higgsx.nn.packed`."""

    @property
    def text(self) -> str: ...
    @property
    def axes(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...


class TracedWeight(torch.Tensor):
    """hgs_entry    what the bytes mean
    hgs_arrays   the stored arrays in the order of their suffixes
    hgs_flipped  True for the transposed view of a matrix
    """

    hgs_entry: Entry
    hgs_arrays: list[torch.Tensor]
    hgs_flipped: bool

    @classmethod
    def __torch_function__(cls, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {} if kwargs is None else kwargs
        with torch._C.DisableTorchFunctionSubclass():
            done = NotImplemented
            if func is F.linear:
                done = _on_linear(*args, **kwargs)
            elif func is F.embedding:
                done = _on_embedding(*args, **kwargs)
            elif func is torch.addmm:
                done = _on_addmm(*args, **kwargs)
            elif func is torch.matmul or func is torch.Tensor.matmul or func is torch.Tensor.__matmul__:
                done = _on_matmul(*args, **kwargs)
            elif func is F.conv1d or func is F.conv2d:
                done = _on_conv(*args, **kwargs)
            elif func is torch.Tensor.t or func is torch.t or func == torch.Tensor.T.__get__:  # type: ignore[attr-defined]
                done = _on_transpose(*args, **kwargs)
            if done is NotImplemented:
                done = func(*[_plain(value) for value in args], **{k: _plain(v) for k, v in kwargs.items()})
            return done


def traced(decoded: torch.Tensor, entry: Entry, arrays: list[torch.Tensor], flipped: bool = False) -> Any:
    weight: Any = decoded.as_subclass(TracedWeight)
    weight.hgs_entry, weight.hgs_arrays, weight.hgs_flipped = entry, arrays, flipped
    return weight


def _plain(value: Any) -> Any:
    """The values without our class: what torch does inside may ask for the class of a tensor."""
    if isinstance(value, TracedWeight):
        entry = value.hgs_entry
        dense = torch.ops.higgsx.decode(value.hgs_arrays, entry.text, entry.dtype)
        return dense.t() if value.hgs_flipped else dense
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value] if isinstance(value, list) else tuple(_plain(v) for v in value)
    return value


def _is_matrix(weight: Any, x: Any, outputs_first: bool) -> bool:
    """A weight whose rows, as they are seen from outside, are outputs (or inputs); x an ordinary tensor."""
    if not isinstance(weight, TracedWeight) or isinstance(x, TracedWeight) or weight.dim() != 2:
        return False
    seen = (weight.hgs_entry.axes == "io") == weight.hgs_flipped
    return seen == outputs_first and not torch.is_autocast_enabled(x.device.type)


def _on_linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if isinstance(bias, TracedWeight) or not _is_matrix(weight, input, True):
        return NotImplemented
    entry = weight.hgs_entry
    return torch.ops.higgsx.linear(input, weight.hgs_arrays, entry.text, entry.dtype, bias)


def _on_matmul(input: Any, other: Any) -> Any:
    if not _is_matrix(other, input, False):
        return NotImplemented
    entry = other.hgs_entry
    return torch.ops.higgsx.matmul(input, other.hgs_arrays, entry.text, entry.dtype, None)


def _on_addmm(input: Any, mat1: Any, mat2: Any, **rest: Any) -> Any:
    if rest or isinstance(input, TracedWeight) or input.dim() != 1 or not _is_matrix(mat2, mat1, False):
        return NotImplemented
    entry = mat2.hgs_entry
    return torch.ops.higgsx.matmul(mat1, mat2.hgs_arrays, entry.text, entry.dtype, input)


def _on_embedding(
    input: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None or not isinstance(weight, TracedWeight) or isinstance(input, TracedWeight):
        return NotImplemented
    entry = weight.hgs_entry
    if entry.axes != "oi" or weight.hgs_flipped:
        return NotImplemented
    return torch.ops.higgsx.embedding(input, weight.hgs_arrays, entry.text, entry.dtype)


def _on_conv(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if groups != 1 or isinstance(padding, str) or not isinstance(weight, TracedWeight):
        return NotImplemented
    if isinstance(input, TracedWeight) or isinstance(bias, TracedWeight):
        return NotImplemented
    if torch.is_grad_enabled() and (input.requires_grad or (bias is not None and bias.requires_grad)):
        return NotImplemented
    if torch.is_autocast_enabled(input.device.type):
        return NotImplemented
    entry, count = weight.hgs_entry, weight.dim() - 2
    return torch.ops.higgsx.conv(
        input, weight.hgs_arrays, entry.text, entry.dtype, bias,
        _sizes(stride, count), _sizes(padding, count), _sizes(dilation, count),
    )  # fmt: skip


def _sizes(value: Any, count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value)


def _on_transpose(weight: Any) -> Any:
    if not isinstance(weight, TracedWeight) or weight.dim() != 2:
        return NotImplemented
    return traced(weight.t(), weight.hgs_entry, weight.hgs_arrays, not weight.hgs_flipped)
