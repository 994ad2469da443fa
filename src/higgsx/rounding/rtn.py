"""Round to nearest, with the scale that leaves the least squared error.

Of every scale block a ladder of scales is tried around a start that Gaussian weights suggest (`starts.py`),
then a few more around the best of them. Every trial uses a scale that the codec can store, so what is
compared is what decoding gives. Portable: see `columns.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.rounding.columns import PIECE, Choice, Search, Stats, Work, reciprocal, stats_of, to_f16
from higgsx.rounding.starts import start

_ROWS = 256
"""Rows worked on at a time."""
_LARGEST_BLOCK = 128
"""Wider columns are whole rows."""


def _column(*values: float) -> torch.Tensor:
    """float32 whatever the default dtype is: a loader may have set another for its own model."""
    return torch.tensor(values, dtype=torch.float32)[:, None]


def _ladder(low: float, high: float, count: int) -> torch.Tensor:
    """Equal ratios from low to high, cut to four digits so that they are the same everywhere."""
    steps = [round(low * (high / low) ** (step / (count - 1)), 4) for step in range(count)]
    return _column(*steps)


_Ladders = tuple[torch.Tensor, torch.Tensor]
"""Ratios to the start, then ratios to the best of them."""
_FEW: _Ladders = (_ladder(0.68, 1.28, 7), _ladder(0.96, 1.04, 2))
_MANY: _Ladders = (_ladder(0.76, 1.22, 7), _column(0.965, 0.98, 1.02, 1.035))
_MOST: _Ladders = (_ladder(0.76, 1.22, 16), _column(0.985, 0.9925, 1.0075, 1.015))
_LAST: _Ladders = (_ladder(0.78, 1.2, 10), _column(0.97, 0.985, 1.015, 1.03))
_OF_BITS: dict[int, _Ladders] = {2: _FEW, 3: _FEW, 4: _MANY, 5: _MOST, 6: _MOST, 8: _LAST}
"""The finer the grid, the more the error of a block jumps from scale to scale: more of them pay. With these
the error is at most 2 % above that of the best scale there is up to 5 bits, 3 % at 6 bits (Gaussian blocks
of 32 weights, less for larger ones)."""
_OF_ROW: _Ladders = (_ladder(0.68, 1.5, 7), _ladder(0.95, 1.05, 4))
_SHRINK = {2: (1.0, 0.9, 0.8, 0.72, 0.64, 0.56, 0.48), 3: (1.0, 0.92, 0.84, 0.77, 0.7, 0.62)}
_SHRINK_FINER = (1.0, 0.96, 0.92, 0.88, 0.84, 0.78)
_SHRINK_AGAIN = _column(-0.02, 0.02)


@dataclass
class _Out:
    """What is being filled: a slab, or a slice of its rows."""

    codes: torch.Tensor
    block: torch.Tensor | None
    row: torch.Tensor | None
    zero: torch.Tensor | None

    def rows(self, begin: int, end: int) -> _Out:
        cut = [None if part is None else part[..., begin:end] for part in (self.block, self.row, self.zero)]
        return _Out(self.codes[:, begin:end], *cut)


Improve = Callable[[Search, Choice], Choice]
"""What another rounding makes of the best that the ladders found."""


def rtn(codec: PanelCodec, x: torch.Tensor) -> tuple[torch.Tensor, Scales]:
    """Codes uint8 `[inputs, rows]` and scales of x, float32 `[inputs, rows]`, finite."""
    return search_all(codec, x, lambda search, best: best)


def search_all(codec: PanelCodec, x: torch.Tensor, improve: Improve) -> tuple[torch.Tensor, Scales]:
    """The same, with a last word on the scales of every block."""
    inputs, rows = x.shape
    blocks = math.ceil(inputs / codec.block) if codec.block else 1
    zero_type = None if codec.zero == "none" else torch.uint8 if codec.zero == "u8" else torch.float16
    out = _Out(
        torch.empty((inputs, rows), dtype=torch.uint8),
        None if not codec.block else torch.empty((blocks, rows), dtype=_block_type(codec)),
        torch.empty(rows, dtype=torch.float16) if codec.scale == "u8" or not codec.block else None,
        None if zero_type is None else torch.empty((blocks, rows), dtype=zero_type),
    )
    step = _ROWS if codec.block else max(16, min(_ROWS, PIECE // inputs))
    work = Work(max(PIECE, min(step, rows) * (codec.block or inputs)))
    for begin in range(0, rows, step):
        end = min(begin + step, rows)
        _round_rows(codec, x[:, begin:end], out.rows(begin, end), work, improve)
    return out.codes, Scales(out.block, out.row, out.zero)


def _block_type(codec: PanelCodec) -> torch.dtype:
    return torch.uint8 if codec.scale == "u8" else torch.float16


@dataclass(frozen=True)
class _Piece:
    """Some blocks of equal width, of all rows at hand: `blocks[first] … blocks[first + count − 1]`."""

    first: int
    count: int
    begin: int
    width: int

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        """`[width, count * rows]`, contiguous; column `b * rows + r` is block b of row r."""
        part = x[self.begin : self.begin + self.count * self.width]
        if self.count == 1:
            return part.contiguous()
        return part.view(self.count, self.width, -1).transpose(0, 1).contiguous().view(self.width, -1)

    def put_codes(self, codes: torch.Tensor, target: torch.Tensor) -> None:
        part = target[self.begin : self.begin + self.count * self.width]
        apart = codes.view(self.width, self.count, -1).transpose(0, 1)
        part.view(self.count, self.width, -1).copy_(apart)


def _pieces(codec: PanelCodec, inputs: int, rows: int) -> Iterator[_Piece]:
    width = codec.block or inputs
    full = inputs // width
    step = max(1, PIECE // (width * rows))
    for first in range(0, full, step):
        yield _Piece(first, min(step, full - first), first * width, width)
    if full * width < inputs:
        yield _Piece(full, 1, full * width, inputs - full * width)


def _round_rows(codec: PanelCodec, x: torch.Tensor, out: _Out, work: Work, improve: Improve) -> None:
    inputs, rows = x.shape
    pieces = list(_pieces(codec, inputs, rows))
    columns = [piece.columns(x) for piece in pieces]
    stats = [stats_of(part, work) for part in columns]
    starts = [_start(codec, part, piece.width) for part, piece in zip(stats, pieces, strict=True)]
    row = None
    if codec.scale == "u8" and out.row is not None:
        largest = torch.cat([part.view(-1, rows) for part in starts]).amax(0)
        # room for blocks that want more than their start
        room = 1.0 if codec.zero != "none" else 1.1
        out.row.copy_(to_f16(largest * (room / 255.0) / 2.0**codec.exponent))
        row = out.row.float() * 2.0**codec.exponent
    for piece, part, of, first in zip(pieces, columns, stats, starts, strict=True):
        tiled = None if row is None else row.expand(piece.count, rows).reshape(-1)
        search = Search(codec, part, of, tiled, work)
        best = _search_range(search) if codec.zero != "none" else _search_scale(search, first, piece.width)
        best = improve(search, best)
        piece.put_codes(search.codes(best), out.codes)
        _store(codec, out, piece, best, rows)


def _store(codec: PanelCodec, out: _Out, piece: _Piece, best: Choice, rows: int) -> None:
    of_blocks = slice(piece.first, piece.first + piece.count)
    if out.block is not None:
        out.block[of_blocks] = best.stored.view(-1, rows).to(out.block.dtype)
    elif out.row is not None:
        out.row.copy_(best.stored)
    if out.zero is not None and best.zero is not None:
        out.zero[of_blocks] = best.zero.view(-1, rows).to(out.zero.dtype)


def _start(codec: PanelCodec, stats: Stats, width: int) -> torch.Tensor:
    """The scale to begin with; with zero points the largest that is tried."""
    if codec.zero != "none":
        low, high = _range(codec, stats)
        return (high - low) / float((1 << codec.code_bits) - 1)
    of_largest, of_rms = start(codec, width)
    top = float(codec.levels().abs().max())
    largest = torch.maximum(-stats.low, stats.high)
    return largest * (of_largest / top) + (stats.energy / width).sqrt_() * (of_rms / top)


def _search_scale(search: Search, first: torch.Tensor, width: int) -> Choice:
    coarse, fine = _OF_BITS[search.codec.code_bits] if width <= _LARGEST_BLOCK else _OF_ROW
    best = search.best_of(first * coarse)
    best = search.best_of(best.multiplier * fine, known=best)
    return search.without_small(best)


def _range(codec: PanelCodec, stats: Stats) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest value that the grid should reach. A zero point is a code, so zero is among them."""
    if codec.zero == "min":
        return stats.low, stats.high
    return stats.low.clamp_max(0.0), stats.high.clamp_min(0.0)


def _search_range(search: Search) -> Choice:
    """Shrink the range from both ends."""
    low, high = _range(search.codec, search.stats)
    span = high - low
    steps = float((1 << search.codec.code_bits) - 1)

    def attempt(shrink: torch.Tensor, known: Choice | None) -> Choice:
        return search.best_of(span * (shrink / steps), low + span * ((1.0 - shrink) * 0.5), known)

    best = attempt(_column(*_SHRINK.get(search.codec.code_bits, _SHRINK_FINER)), None)
    chosen = best.multiplier * steps * reciprocal(span)
    return attempt((chosen + _SHRINK_AGAIN).clamp_(0.0, 1.0), best)
