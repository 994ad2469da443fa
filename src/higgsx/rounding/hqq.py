"""Half-quadratic steps on scale and zero point, from where `rtn` ends.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the error of a weight
is split into a sparse part e and a rest. Two steps alternate: e shrinks towards the least l_p norm, p < 1,
and then what multiplies or shifts the codes is the closed form of least squares on x − e. A few weights far
outside the grid so pull less on the others. Here

- p is 3/4, whose power is two square roots and so the same on every processor;
- errors are measured in the root mean square of their own block, so that the weights' size has no say;
- zero points and scales both take a step, a grid without zero points only its scale;
- every trial is what the codec can store, and of all trials the one with the least squared error is kept:
  that is what the loss of a plan is made of. So no block is worse than with `rtn`.

Portable: see `columns.py`.
"""

from __future__ import annotations

import torch

from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.rounding.columns import Choice, Search, reciprocal, to_f16
from higgsx.rounding.rtn import search_all

_STEPS = {True: 12, False: 4}
"""With zero points and without; a scale alone is settled sooner."""
_BETA, _GROWTH = 0.3, 1.2
"""How firmly e follows the error: at first only errors above 2.6 times the usual are set aside, in the end
those above half of it. Chosen on rows of three matrices of a language model of 0.5 B, with and without a
Hadamard, from 0 (plain least squares) to 10."""
_TINY = 1e-12


def hqq(codec: PanelCodec, x: torch.Tensor) -> tuple[torch.Tensor, Scales]:
    """Codes uint8 `[inputs, rows]` and scales of x, float32 `[inputs, rows]`, finite."""
    return search_all(codec, x, _improve)


def _improve(search: Search, best: Choice) -> Choice:
    at, beta = _Trial(search, best.stored, best.multiplier, best.zero), _BETA
    for _ in range(_STEPS[best.zero is not None]):
        if at.zero is not None:
            at = at.with_zero(beta)
            best = at.or_better(best)
        at = at.with_scale(beta)
        best = at.or_better(best)
        beta *= _GROWTH
    return best if best.zero is not None else search.without_small(best)


class _Trial:
    """All columns of a piece, rounded with one scale and zero point each.

    wanted, level  float32 `[width, columns]`, in cells: the column and the nearest levels
    energy         squared error of each column, in cells
    """

    def __init__(
        self, search: Search, stored: torch.Tensor, multiplier: torch.Tensor, zero: torch.Tensor | None
    ) -> None:
        self.search, self.stored, self.multiplier, self.zero = search, stored, multiplier, zero
        codec, buffers = search.codec, search.buffers
        self.wanted = search.cells(reciprocal(multiplier) * codec.cell, zero).clone()
        self.level = codec.snap(self.wanted, torch.empty_like(self.wanted), buffers.index)
        self.error = self.wanted - self.level
        self.energy = self._sum(self.error, self.error)

    def _sum(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Sum of products over each column."""
        torch.mul(a, b, out=self.search.buffers.snapped)
        return self.search.buffers.sum_snapped(torch.empty_like(self.multiplier))

    def _mean(self, a: torch.Tensor) -> torch.Tensor:
        self.search.buffers.snapped.copy_(a)
        return self.search.buffers.sum_snapped(torch.empty_like(self.multiplier)) / len(a)

    def or_better(self, known: Choice) -> Choice:
        """Column by column this trial, where its squared error is less than the known one."""
        unit = self.multiplier / self.search.codec.cell
        error = self.energy * unit * unit
        better = (error < known.error) & (self.multiplier > 0)
        zero = None
        if self.zero is not None and known.zero is not None:
            zero = torch.where(better, self.zero, known.zero)
        return Choice(
            torch.where(better, self.stored, known.stored),
            torch.where(better, self.multiplier, known.multiplier),
            zero,
            torch.where(better, error, known.error),
        )

    def _rest(self, beta: float) -> torch.Tensor:
        """What least squares is asked to explain of the error: error − e, in cells.

        e is the generalised soft threshold of the l_p norm: sign(r) · max(0, |r| − |r|^(p−1) / beta).
        """
        usual = (self.energy / len(self.error)).sqrt_()
        size = (self.error.abs() * reciprocal(usual)).clamp_(min=_TINY)
        threshold = size.sqrt().sqrt_().reciprocal_().mul_(1.0 / beta)
        e = size.sub_(threshold).clamp_(min=0.0).mul_(usual).mul_(self.error.sign())
        return self.error - e

    def with_zero(self, beta: float) -> _Trial:
        """The zero point that makes the rest of the error zero on average."""
        if self.zero is None:
            return self
        shift = self._mean(self._rest(beta))
        if self.search.codec.zero == "min":
            zero = to_f16(self.zero + shift * self.multiplier).float()
        elif self.search.codec.zero == "u8":
            zero = (self.zero - shift).round_().clamp_(0.0, 255.0)
        else:
            zero = to_f16(self.zero - shift).float()
        return _Trial(self.search, self.stored, self.multiplier, zero)

    def with_scale(self, beta: float) -> _Trial:
        """The scale of least squares between levels and what they stand for."""
        codec = self.search.codec
        centre = self.zero if self.zero is not None and codec.zero != "min" else codec.shift
        level = self.level - centre
        ratio = self._sum(self._rest(beta), level) * reciprocal(self._sum(level, level))
        stored, multiplier = self.search.store((self.multiplier * (1.0 + ratio)).clamp_(min=0.0))
        return _Trial(self.search, stored, multiplier, self.zero)
