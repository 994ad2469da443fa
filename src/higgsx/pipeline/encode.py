"""One tensor to its stored arrays, in slabs of rows, so that memory stays small however large it is."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch

from higgsx.codecs.base import torch_dtype
from higgsx.codecs.dense import Dense
from higgsx.codecs.panels import PanelCodec
from higgsx.descriptor import Descriptor
from higgsx.errors import DataError, UsageError
from higgsx.rounding.base import exponent_for
from higgsx.rounding.slab import encode_slab
from higgsx.rounding.table import rounding_of
from higgsx.source.checkpoint import Checkpoint

SLAB = 1 << 21
"""Weights that are in float32 at a time."""
_PANEL = 16

Rows = Callable[[int, int], torch.Tensor]
"""Output rows `begin` to `end` of the matrix (experts one after the other), `[rows, inputs]`, any dtype."""


@dataclasses.dataclass(frozen=True)
class Slab:
    """Bytes of some whole panels of one tensor: array suffix → uint8, in the order of the file."""

    weights: int
    arrays: dict[str, torch.Tensor]


def rows_of(tensor: torch.Tensor, descriptor: Descriptor) -> Rows:
    """Rows of a tensor that is in memory, in its original layout."""
    shape = descriptor.matrix
    flat = descriptor.to_matrix(tensor).reshape(-1, shape.inputs)
    return lambda begin, end: flat[begin:end]


def rows_from(source: Checkpoint, name: str, descriptor: Descriptor) -> Rows:
    """Rows read from a checkpoint as they are asked for, or from the whole tensor where they lie apart."""
    inputs = descriptor.matrix.inputs
    if descriptor.axes not in ("", "oi") or descriptor.matrix.experts is not None:
        return rows_of(source.read(name), descriptor)
    if len(source.tensors[name].shape) < 2:
        return lambda begin, end: source.read(name).reshape(1, inputs)
    return lambda begin, end: source.read_rows(name, begin, end).reshape(end - begin, inputs)


def settle(descriptor: Descriptor, rows: Rows, where: str) -> Descriptor:
    """The descriptor with what only the data can tell: the exponent that keeps its scales in range.

    Reads everything once. DataError where a weight is NaN or infinite, or too large for the float that it is
    to become, with its place.
    """
    if not torch_dtype(descriptor.dtype).is_floating_point:
        return descriptor
    largest = 0.0
    for begin, end in spans(descriptor):
        largest = max(largest, largest_of(rows(begin, end), descriptor, begin, where))
    if isinstance(descriptor.codec, Dense):
        most = torch.finfo(torch_dtype(descriptor.codec.dtype)).max
        if largest > most:
            raise DataError(
                f"a weight is too large for {descriptor.codec.label}", where=where, got=largest, expected=most
            )
    if not isinstance(descriptor.codec, PanelCodec):
        return descriptor
    exponent = exponent_for(descriptor.codec, largest)
    return descriptor.with_codec(dataclasses.replace(descriptor.codec, exponent=exponent))  # type: ignore[type-var]


def largest_of(part: torch.Tensor, descriptor: Descriptor, begin: int, where: str) -> float:
    """Largest magnitude in rows of the matrix from `begin` on, `[rows, inputs]`, after channel scales.

    DataError names the tensor and the index, in its own layout, of the first weight that is NaN or Inf.
    """
    largest = float(part.abs().max())
    if math.isfinite(largest):
        return largest if descriptor.transform is None else descriptor.transform.largest(part)
    row, column = (~part.isfinite()).nonzero()[0].tolist()
    index = ", ".join(map(str, place_of(descriptor, begin + row, column)))
    raise DataError(
        "a weight is not a finite number",
        where=f"{where}[{index}]",
        got=float(part[row, column]),
        remedy="the checkpoint is damaged; get it again",
    )


def place_of(descriptor: Descriptor, row: int, column: int) -> tuple[int, ...]:
    """Index in the original tensor of one weight of the matrix, experts one after the other."""
    expert, output = divmod(row, descriptor.matrix.outputs)
    if descriptor.axes in ("", "oi"):
        return _unravel(row * descriptor.matrix.inputs + column, descriptor.shape)
    if "k" in descriptor.axes:
        position, channel = divmod(column, descriptor.shape[1])
        return (row, channel, *_unravel(position, descriptor.shape[2:]))
    inner = (column, output) if descriptor.axes.endswith("io") else (output, column)
    return (expert, *inner) if "e" in descriptor.axes else inner


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index: list[int] = []
    for size in reversed(shape):
        flat, place = divmod(flat, size)
        index.insert(0, place)
    return tuple(index)


def encode_rows(descriptor: Descriptor, rows: Rows, begin: int, end: int, method: str) -> Slab:
    """One slab, to be appended to the arrays in order. The descriptor must be settled."""
    part = rows(begin, end)
    if isinstance(descriptor.codec, Dense):
        stored = part.to(torch_dtype(descriptor.codec.dtype)).contiguous().view(torch.uint8)
        return Slab(part.numel(), {"": stored})
    codec = descriptor.codec
    if not isinstance(codec, PanelCodec):
        raise UsageError("no encoder for this codec", got=codec.id)
    payload, of_rows = encode_slab(codec, descriptor.transform, part, rounding_of(method))
    arrays = {"_hgs": payload} if of_rows is None else {"_hgs": payload, "_hgsr": of_rows}
    return Slab(part.numel(), arrays)


def encode_tensor(
    tensor: torch.Tensor, descriptor: Descriptor, method: str = "rtn", where: str = "weight"
) -> tuple[Descriptor, dict[str, torch.Tensor]]:
    """Settle and encode a tensor in memory; arrays in the shapes that the descriptor declares."""
    rows = rows_of(tensor.detach(), descriptor)
    settled = settle(descriptor, rows, where)
    slabs = [encode_rows(settled, rows, begin, end, method).arrays for begin, end in spans(settled)]
    shapes = settled.arrays()
    joined = {suffix: torch.cat([arrays[suffix].view(-1) for arrays in slabs]) for suffix in shapes}
    return settled, {
        suffix: joined[suffix].view(torch_dtype(kind)).view(shape) for suffix, (kind, shape) in shapes.items()
    }


def spans(descriptor: Descriptor) -> Iterator[tuple[int, int]]:
    """Rows of each slab: whole panels, never across experts."""
    matrix = descriptor.matrix
    step = max(1, SLAB // matrix.inputs // _PANEL) * _PANEL
    for expert in range(matrix.experts or 1):
        first = expert * matrix.outputs
        for begin in range(0, matrix.outputs, step):
            yield first + begin, first + min(begin + step, matrix.outputs)
