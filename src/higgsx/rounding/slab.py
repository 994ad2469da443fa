"""A slab of rows to its stored bytes: turn, transform, round, pack, in pieces that caches can hold."""

from __future__ import annotations

import torch

from higgsx.codecs.bits import PANEL
from higgsx.codecs.panels import PanelCodec
from higgsx.rounding.base import Rounding
from higgsx.transforms.hadamard import Hadamard

_WEIGHTS = 1 << 19
"""Weights in float32 at a time."""


def encode_slab(
    codec: PanelCodec, transform: Hadamard | None, rows: torch.Tensor, rounding: Rounding
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Payload uint8 `[panels, bytes]` and what belongs to whole rows, `[panels, bytes]` or None.

    rows  `[rows, inputs]`, any float dtype and layout, finite. All but the last slab of a matrix have a
          multiple of 16 rows; how a matrix is cut into slabs does not change the bytes.

    Many small operations on one thread each: several slabs at once on several Python threads, each with one
    torch thread, are faster than one slab on several torch threads.
    """
    step = max(1, _WEIGHTS // (rows.shape[1] * PANEL)) * PANEL
    parts = []
    for begin in range(0, rows.shape[0], step):
        x = inputs_first(rows[begin : begin + step])
        if transform is not None:
            x = transform.encode(x)
        parts.append(codec.pack(*rounding.round(codec, x)))
    if len(parts) == 1:
        return parts[0]
    of_rows = [part for _, part in parts if part is not None]
    return torch.cat([payload for payload, _ in parts]), torch.cat(of_rows) if of_rows else None


def inputs_first(rows: torch.Tensor) -> torch.Tensor:
    """`[rows, inputs]` of any float dtype → a new float32 `[inputs, rows]`, contiguous."""
    count, inputs = rows.shape
    if rows.dtype != torch.bfloat16 or inputs % 2 or not rows.is_contiguous() or rows.data_ptr() % 4:
        return torch.empty((inputs, count), dtype=torch.float32).copy_(rows.to(torch.float32).t())
    # pairs of bfloat16 are turned as one number; shifted up they are float32
    pairs = rows.view(torch.int32).t().contiguous()
    out = torch.empty((inputs // 2, 2, count), dtype=torch.int32)
    torch.mul(pairs, 1 << 16, out=out[:, 0])
    torch.bitwise_and(pairs, -(1 << 16), out=out[:, 1])
    return out.view(torch.float32).view(inputs, count)
