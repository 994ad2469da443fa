"""Convolution as a product: the pieces of the input that each result sees, as rows.

The columns of a stored convolution count kernel positions, then channels (docs/format.md 4.1), so with
channels last a window of a row is already in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from higgsx.kernels.reference import Sizes

_PIECE = 1 << 22
"""Numbers copied at a time where windows have to be copied."""


@dataclass(frozen=True)
class Convolution:
    """Of each dimension: results, step, distance of kernel positions, zeros before and after."""

    out: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


def output_sizes(
    shape: Sequence[int], kernel: Sequence[int], stride: Sizes, padding: Sizes, dilation: Sizes
) -> Convolution | None:
    """The sizes of a convolution, as torch takes its arguments; None for what torch would refuse."""
    dims = len(kernel)
    steps, apart = _each(stride, dims), _each(dilation, dims)
    if steps is None or apart is None or min(*steps, *apart) < 1:
        return None
    spans = tuple(d * (k - 1) for d, k in zip(apart, kernel, strict=True))
    if padding == "same":
        if any(step != 1 for step in steps):
            return None
        before = tuple(span // 2 for span in spans)
        after = tuple(span - span // 2 for span in spans)
    else:
        around = _each(0 if padding == "valid" else padding, dims)
        if around is None or min(around) < 0:
            return None
        before = after = around
    out = tuple(
        (size + b + a - span - 1) // step + 1
        for size, b, a, span, step in zip(shape, before, after, spans, steps, strict=True)
    )
    return Convolution(out, steps, apart, before, after) if min(out) > 0 else None


def _each(value: Sizes, dims: int) -> tuple[int, ...] | None:
    if isinstance(value, int):
        return (value,) * dims
    if isinstance(value, str) or len(value) not in (1, dims):
        return None
    return tuple(int(v) for v in value) * (dims // len(value))


@dataclass(frozen=True)
class Windows:
    """count windows, `stride` numbers from one to the next, the first at the beginning of x. They belong to
    the results first, first + every, first + 2 · every …"""

    x: torch.Tensor
    stride: int
    count: int
    first: int
    every: int = 1


def windows_of(x: torch.Tensor, kernel: Sequence[int], sizes: Convolution) -> Iterator[Windows]:
    """x `[batch, channels, .., ..]`. Results are counted through all of the batch."""
    results = math.prod(sizes.out)
    for index, one in enumerate(x):
        padded = _channels_last(one, sizes)
        if len(kernel) == 1:
            yield from _of_line(padded, kernel[0], sizes, index * results)
        else:
            yield from _of_plane(padded, kernel, sizes, index * results)


def _channels_last(x: torch.Tensor, sizes: Convolution) -> torch.Tensor:
    """`[channels, ..]` → `[.., channels]` with zeros around it, contiguous."""
    channels, *shape = x.shape
    full = [b + s + a for b, s, a in zip(sizes.before, shape, sizes.after, strict=True)]
    padded = x.new_zeros((*full, channels)) if any((*sizes.before, *sizes.after)) else None
    moved = x.detach().movedim(0, -1)
    if padded is None:
        return moved.contiguous()
    inside = padded[tuple(slice(b, b + s) for b, s in zip(sizes.before, shape, strict=True))]
    inside.copy_(moved)
    return padded


def _of_line(x: torch.Tensor, kernel: int, sizes: Convolution, first: int) -> Iterator[Windows]:
    channels, step, results = x.shape[1], sizes.stride[0], sizes.out[0]
    if sizes.dilation[0] > 1:
        strides = (step * channels, sizes.dilation[0] * channels, 1)
        view = x.as_strided((results, kernel, channels), strides)
        yield Windows(view.contiguous(), kernel * channels, results, first)
        return
    # nothing is copied: of windows that overlap, only every so many are taken together
    every = -(-kernel // step)
    for begin in range(min(every, results)):
        count = -(-(results - begin) // every)
        yield Windows(x[begin * step :], every * step * channels, count, first + begin, every)


def _of_plane(x: torch.Tensor, kernel: Sequence[int], sizes: Convolution, first: int) -> Iterator[Windows]:
    _, width, channels = x.shape
    (tall, wide), (down, right), (apart, beside) = sizes.out, sizes.stride, sizes.dilation
    strides = (down * width * channels, right * channels, apart * width * channels, beside * channels, 1)
    view = x.as_strided((tall, wide, *kernel, channels), strides)
    inputs = kernel[0] * kernel[1] * channels
    rows = max(1, _PIECE // (wide * inputs))
    for begin in range(0, tall, rows):
        part = view[begin : begin + rows].contiguous()
        yield Windows(part, inputs, part.shape[0] * wide, first + begin * wide)
