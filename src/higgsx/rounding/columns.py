"""Scale search over *columns*: every column of a `[width, columns]` matrix is one scale block of one row.

Columns do not see each other and every step is elementwise, or a sum that halves in a fixed order, so the
result depends neither on how columns are cut into pieces nor on threads or processor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from higgsx.codecs.panels import PanelCodec

PIECE = 1 << 17
"""Weights worked on at a time: all buffers stay within a second-level cache."""
_LARGEST_F16 = 65504.0

Halvings = list[tuple[torch.Tensor, torch.Tensor]]


class Buffers:
    """Scratch space for columns of one size, with the views that a halving sum needs."""

    def __init__(self, floats: torch.Tensor, index: torch.Tensor, width: int, columns: int) -> None:
        size = width * columns
        self.t, self.snapped = (part[:size].view(width, columns) for part in floats)
        self.index = index[:size].view(width, columns)
        self.halvings: Halvings = []
        count = width
        while count > 2:
            half, kept = count // 2, count - count // 2
            self.halvings.append((self.snapped[:half], self.snapped[kept:count]))
            count = kept
        self.last = (
            self.snapped[0],
            self.snapped[1] if width > 1 else torch.zeros(columns, dtype=torch.float32),
        )

    def sum_snapped(self, out: torch.Tensor) -> torch.Tensor:
        """Sum of `snapped` over dim 0 in an order that the width alone decides: the last half onto the first,
        again and again (of an odd count the middle one waits). Overwrites it."""
        for low, high in self.halvings:
            low.add_(high)
        return torch.add(*self.last, out=out)


class Work:
    """The memory of one thread, reused for every piece of at most `size` weights."""

    def __init__(self, size: int) -> None:
        self._floats = torch.empty((2, size), dtype=torch.float32)
        self._index = torch.empty(size, dtype=torch.int32)
        self._known: dict[tuple[int, int], Buffers] = {}

    def buffers(self, width: int, columns: int) -> Buffers:
        key = (width, columns)
        if key not in self._known:
            self._known[key] = Buffers(self._floats, self._index, width, columns)
        return self._known[key]


@dataclass(frozen=True)
class Stats:
    """Of every column, float32 `[columns]`; `energy` is the sum of squares."""

    low: torch.Tensor
    high: torch.Tensor
    energy: torch.Tensor


def stats_of(x: torch.Tensor, work: Work) -> Stats:
    buffers = work.buffers(*x.shape)
    torch.mul(x, x, out=buffers.snapped)
    energy = buffers.sum_snapped(torch.empty(x.shape[1], dtype=torch.float32))
    return Stats(x.amin(0), x.amax(0), energy)


@dataclass(frozen=True)
class Choice:
    """What a search has found for every column, or (with a leading dimension) several proposals.

    stored      the scale as it will be stored: whole numbers 0 to 255, or float16 values, as float32
    multiplier  what it multiplies codes by, exactly as decoding will
    zero        the zero point as it will be stored, as float32
    error       squared error of the column
    """

    stored: torch.Tensor
    multiplier: torch.Tensor
    zero: torch.Tensor | None
    error: torch.Tensor


class Search:
    """Trials of one piece of columns.

    row  float32 `[columns]`: the row scale of each column, power of two included, where blocks store a uint8;
         None where they store a float16 themselves
    """

    def __init__(
        self, codec: PanelCodec, x: torch.Tensor, stats: Stats, row: torch.Tensor | None, work: Work
    ) -> None:
        self.codec, self.x, self.stats = codec, x, stats
        self.buffers = work.buffers(*x.shape)
        self.two = 2.0**codec.exponent
        self.row = row
        self.per_row = None if row is None else reciprocal(row)

    def store(self, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest scale that can be stored, and the multiplier it stands for."""
        if self.row is None or self.per_row is None:
            stored = to_f16(scale / self.two).float()
            return stored, stored * self.two
        stored = (scale * self.per_row).round_().clamp_(1.0, 255.0)
        return stored, stored * self.row

    def zero_for(self, low: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
        """The zero point, as it will be stored, for which code 0 is nearest to `low`."""
        if self.codec.zero == "min":
            return to_f16(low).float()
        zero = -(low * reciprocal(multiplier))
        if self.codec.zero == "u8":
            return zero.round_().clamp_(0.0, 255.0)
        return to_f16(zero).float()

    def cells(self, per_cell: torch.Tensor, zero: torch.Tensor | None) -> torch.Tensor:
        """The columns in cells of the grid (`PanelCodec.cell`), in `buffers.t`."""
        t = self.buffers.t
        if zero is None:
            return torch.mul(self.x, per_cell, out=t).add_(self.codec.shift)
        if self.codec.zero == "min":
            return torch.sub(self.x, zero, out=t).mul_(per_cell)
        return torch.mul(self.x, per_cell, out=t).add_(zero)

    def best_of(
        self, scales: torch.Tensor, lows: torch.Tensor | None = None, known: Choice | None = None
    ) -> Choice:
        """Round with each of these scales, `[trials, columns]` (and lowest values, for a grid with zero
        points); the first with the least error of these and of `known`."""
        stored, multiplier = self.store(scales)
        zeros = None if lows is None else self.zero_for(lows, multiplier)
        per_cell = reciprocal(multiplier) * self.codec.cell
        errors = torch.empty_like(multiplier)
        t, snapped, index = self.buffers.t, self.buffers.snapped, self.buffers.index
        for trial in range(len(scales)):
            self.cells(per_cell[trial], None if zeros is None else zeros[trial])
            self.codec.snap(t, snapped, index)
            snapped.sub_(t)
            snapped.mul_(snapped)
            self.buffers.sum_snapped(errors[trial])
        unit = multiplier / self.codec.cell
        errors.mul_(unit).mul_(unit)
        if float(multiplier.amin()) == 0.0:
            errors = torch.where(multiplier > 0, errors, self.stats.energy)
        return _least(Choice(stored, multiplier, zeros, errors), known)

    def codes(self, choice: Choice) -> torch.Tensor:
        """uint8 codes of the columns."""
        t = self.cells(reciprocal(choice.multiplier) * self.codec.cell, choice.zero)
        return self.codec.codes(t, self.buffers.index)

    def without_small(self, choice: Choice) -> Choice:
        """Scale zero for columns that are nearer to zero than to what the smallest scale can say."""
        # an error too large for float32 says nothing
        nothing = self.stats.energy <= choice.error.clamp(max=torch.finfo(torch.float32).max)
        stored = choice.stored.masked_fill(nothing, 0.0)
        return Choice(stored, choice.multiplier.masked_fill(nothing, 0.0), choice.zero, choice.error)


def _least(proposals: Choice, known: Choice | None) -> Choice:
    error = proposals.error.amin(0)
    # of equals the largest: argmin would do it too, but takes as long as several trials
    least = proposals.error == error

    def pick(values: torch.Tensor) -> torch.Tensor:
        return torch.where(least, values, -math.inf).amax(0)

    stored, multiplier, zero = pick(proposals.stored), pick(proposals.multiplier), None
    if proposals.zero is not None:
        least &= proposals.stored == stored
        zero = pick(proposals.zero)
    if known is None:
        return Choice(stored, multiplier, zero, error)
    better = error < known.error
    if zero is not None and known.zero is not None:
        zero = torch.where(better, zero, known.zero)
    return Choice(
        torch.where(better, stored, known.stored),
        torch.where(better, multiplier, known.multiplier),
        zero,
        torch.where(better, error, known.error),
    )


def reciprocal(x: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 for 0; x is not negative."""
    if x.numel() and float(x.amin()) == 0.0:
        return torch.where(x > 0, 1.0 / x, 0.0)
    return 1.0 / x


def to_f16(x: torch.Tensor) -> torch.Tensor:
    """The nearest float16, never infinite."""
    return x.clamp(-_LARGEST_F16, _LARGEST_F16).half()
