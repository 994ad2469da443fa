"""What a rounding is: how the codes and scales of a matrix are chosen for a given codec."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from higgsx.codecs.panels import MAX_EXPONENT, PanelCodec, Scales
from higgsx.errors import DataError

Choose = Callable[[PanelCodec, torch.Tensor], tuple[torch.Tensor, Scales]]
"""`(codec, x) → (codes, scales)`: x float32 `[inputs, rows]`, codes uint8 `[inputs, rows]`. A row of the
weight is a column of x and is rounded by itself, so a slab may be cut anywhere between rows."""

_HEADROOM = 10
"""A row that is as large as the tensor's largest weight stores a scale near 2 to this power."""


def exponent_for(codec: PanelCodec, absmax: float | torch.Tensor) -> int:
    """The power of two by which the float16 scales of a tensor are to be multiplied.

    absmax  largest magnitude of the tensor's weights, before or after a Hadamard of the inputs (one number,
            or one per row, of which the largest counts). DataError if it is not finite.

    The stored scale of a row (or block) that reaches from −absmax to absmax lies in [2^9, 2^10). A Hadamard
    of width n makes a row at most √n times larger, so it stays below 2^15 for every width up to 1024 and
    below the largest float16. Scales are normal float16 numbers (2^-14 and above) for rows down to 2^-23 of
    the largest; smaller ones lose bits, and what needs less than 2^-25 becomes zero. The exponent itself is
    held to ±64. Minima (`zero = "min"`) are not multiplied by it.
    """
    largest = float(absmax.abs().max()) if isinstance(absmax, torch.Tensor) else abs(float(absmax))
    if not math.isfinite(largest):
        raise DataError("a weight is not a finite number", got=largest)
    if largest == 0.0:
        return 0
    scale = largest / float(codec.levels().abs().max()) * (2.0 if codec.zero != "none" else 1.0)
    if codec.scale == "u8":
        scale /= 255.0
    exponent = math.frexp(scale)[1] - _HEADROOM
    return max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent))


@dataclass(frozen=True)
class Rounding:
    """name      what the command line and the recipe call it
    portable  the same bytes from every processor and any number of threads
    round     see `Choose`
    """

    name: str
    portable: bool
    round: Choose
