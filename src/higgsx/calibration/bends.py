"""How far the second order holds: the loss of coarse codes, measured for each kind of layer.

`½ Σ r mse` is the loss of small white errors. Codes of 2 and 3 bits make large ones, and not quite white
ones: they shrink what they store, which adds up over tokens and layers, and one scale for a whole row clips
the blocks that are large in it. So all layers of a kind get a code, the loss of that is measured, and a
factor and two slopes are taken from it:

    loss = factor · ½ Σ r mse · (1 + slope · e),   e the relative squared error

Measured on some of the batches that the sensitivities come from. A kind is the same place in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from higgsx.calibration.frozen import frozen
from higgsx.calibration.statistics import Bend, Statistics, kind_of
from higgsx.tasks import NO_LABEL, Task

FINE, COARSE, COARSE_ROWS = "fine", "coarse", "coarse rows"
"""Codes that are tried: near 4 bits, near 2, and near 2 with one scale for a whole row."""
MOST_TOKENS, MOST_NUMBERS = 768, 1_500_000
"""Positions that count, and numbers that the model reads: a clip of speech, of which a few tokens count, has
240,000."""
MOST_KINDS = 40
_FACTORS = (0.5, 2.0)
_SLOPES = (-2.0, 40.0)
"""Bounds of what is believed; outside of them a kind is too small to be measured."""
_PIECE = 64

Coded = Callable[[Sequence[str], str], AbstractContextManager[Mapping[str, float]]]
"""Gives the model, for a while, what some parameters are after one of the three codes; tells the relative
squared error of each. Empty where the code cannot store them."""


def measure_bends(
    model: nn.Module,
    task: Task,
    batches: Sequence[Any],
    statistics: Statistics,
    inputs: Mapping[str, int],
    coded: Coded,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Bend]:
    """Kind → its bend; kinds whose loss cannot be told from rounding are left out.

    model    as the sensitivities were taken from; changed by `coded` for a while
    batches  some of them are used, spread evenly: `MOST_TOKENS` positions, `MOST_NUMBERS` numbers, or one
    inputs   parameter name → weights that one output sums over
    """
    kinds: dict[str, list[str]] = {}
    for name in statistics.r:
        kinds.setdefault(kind_of(name), []).append(name)
    total = {kind: sum(statistics.weight(n, inputs[n]) for n in kinds[kind]) for kind in kinds}
    largest = sorted(kinds, key=lambda kind: (-total[kind], kind))[:MOST_KINDS]
    found: dict[str, Bend] = {}
    some = _spread(task, batches)
    with torch.no_grad(), frozen(model):
        before = [_said(task, model, batch) for batch in some]
        for done, kind in enumerate(largest, 1):
            ratios: dict[str, tuple[float, float]] = {}
            for code in (FINE, COARSE, COARSE_ROWS):
                with coded(kinds[kind], code) as errors:
                    expected = sum(statistics.weight(n, inputs[n]) * e for n, e in errors.items())
                    if expected > 0:
                        mean = sum(errors.values()) / len(errors)
                        ratios[code] = mean, _loss(model, task, some, before) / expected
            bend = _fitted(ratios)
            if bend is not None:
                found[kind] = bend
            if progress is not None:
                progress(done, len(largest))
    return found


def _fitted(ratios: Mapping[str, tuple[float, float]]) -> Bend | None:
    """From relative squared error and measured loss over expected loss of each code. Five digits, so that
    what they steer is stable."""
    if FINE not in ratios or not all(0 < ratio < float("inf") for _, ratio in ratios.values()):
        return None
    fine_error, fine = ratios[FINE]
    slope, factor = 0.0, _bounded(fine, _FACTORS)
    if COARSE in ratios:
        error, ratio = ratios[COARSE]
        # factor · (1 + slope · e) through both points, as steep as it may be where that crosses 0
        apart = fine * error - ratio * fine_error
        steep = _bounded((ratio - fine) / apart, _SLOPES) if apart > 0 else _SLOPES[1]
        factor = _bounded(fine / (1 + steep * fine_error), _FACTORS)
        slope = _bounded((ratio / factor - 1) / error, _SLOPES)
    rows = slope
    if COARSE_ROWS in ratios:
        error, ratio = ratios[COARSE_ROWS]
        rows = _bounded((ratio / factor - 1) / error, _SLOPES)
    return Bend(*(float(f"{value:.5g}") for value in (factor, slope, rows)))


def _bounded(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])


def _spread(task: Task, batches: Sequence[Any]) -> list[Any]:
    """Batches evenly over all of them, until there are enough positions or numbers."""
    limits = (MOST_TOKENS, task.tokens), (MOST_NUMBERS, _numbers)
    shares = [most * len(batches) // max(1, sum(map(count, batches))) for most, count in limits]
    count = max(1, min(len(batches), *shares))
    return [batches[(2 * k + 1) * len(batches) // (2 * count)] for k in range(count)]


def _numbers(batch: Any) -> int:
    """Numbers that the model reads: token ids, samples of a clip, pixels."""
    inputs = getattr(batch, "inputs", batch)
    leaves = tree_leaves(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return sum(one.numel() for one in leaves if isinstance(one, Tensor))


def _said(task: Task, model: nn.Module, batch: Any) -> list[Tensor]:
    """What the original says, in pieces. Log-probabilities as float16: their rounding is far below the losses
    that are measured here."""
    short = torch.float16 if task.outputs == "logits" else torch.float32
    return [_comparable(task, piece).to(short) for piece in task.pieces(model, batch, _PIECE)]


def _comparable(task: Task, piece: Tensor) -> Tensor:
    return piece.float().log_softmax(-1) if task.outputs == "logits" else piece.float()


def _loss(model: nn.Module, task: Task, batches: Sequence[Any], before: Sequence[Sequence[Tensor]]) -> float:
    """Mean over the positions that count."""
    total, tokens = 0.0, 0
    for batch, said in zip(batches, before, strict=True):
        counts = (task.labels(batch) != NO_LABEL).split(_PIECE)
        for now, was, keep in zip(task.pieces(model, batch, _PIECE), said, counts, strict=True):
            losses = _losses(task, was.float(), _comparable(task, now))
            total += float(losses[keep.to(losses.device)].double().sum())
        tokens += task.tokens(batch)
    return total / max(1, tokens)


def _losses(task: Task, was: Tensor, now: Tensor) -> Tensor:
    if task.outputs == "vectors":
        return (now - was).square().sum(-1) / was.square().sum(-1).clamp_min(1e-24)
    difference = was - now
    # Σ p (d + exp(-d) - 1) equals Σ p d, and rounding of `was` enters it squared
    terms = was.exp() * (difference + torch.expm1(-difference))
    return terms.nan_to_num_(0.0).sum(-1)
