"""How far the second order holds: the loss of coarse codes, measured for each kind of layer.

`½ Σ r mse` is the loss of small white errors. Codes of 2 and 3 bits make large ones, and not quite white
ones: they shrink what they store, which adds up over tokens and layers, and one scale for a whole row clips
the blocks that are large in it. So all layers of a kind get a code, the loss of that is measured, and a
factor and two slopes are taken from it:

    loss = factor · ½ Σ r mse · (1 + slope · e),   e the relative squared error

Measured on some of the batches that the sensitivities come from. A kind is the same place in every layer. The
layers of a kind to which the score is most sensitive would hide the others, which leave the second order
soonest: large errors reach what small ones do not. So layers of unlike sensitivity are measured apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import inf
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from higgsx.calibration.frozen import frozen
from higgsx.calibration.replay import Replay
from higgsx.calibration.statistics import Bend, Statistics, kind_of
from higgsx.tasks import NO_LABEL, Task

FINE, COARSE, COARSE_ROWS = "fine", "coarse", "coarse rows"
"""Codes that are tried: near 4 bits, near 2, and near 2 with one scale for a whole row."""
MOST_TOKENS, MOST_NUMBERS = 768, 1_500_000
"""Positions that count, and numbers that the model reads: a clip of speech, of which a few tokens count, has
240,000."""
MOST_KINDS, MOST_PARTS = 40, 4
ALIKE = 3.0
"""Layers of a kind are measured together while the losses that the second order expects of them differ by no
more than this."""
_FACTORS = (0.5, 2.0)
_SLOPES = (-2.0, 200.0)
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
    """Parameter name → its bend; without kinds whose loss is no positive number.

    model    as the sensitivities were taken from; changed by `coded` for a while
    batches  some of them are used, spread evenly: `MOST_TOKENS` positions, `MOST_NUMBERS` numbers, or one
    inputs   parameter name → weights that one output sums over
    """
    weights = {name: statistics.weight(name, inputs[name]) for name in statistics.r}
    kinds: dict[str, list[str]] = {}
    for name in weights:
        kinds.setdefault(kind_of(name), []).append(name)
    total = {kind: sum(weights[name] for name in names) for kind, names in kinds.items()}
    largest = sorted(kinds, key=lambda kind: (-total[kind], kind))[:MOST_KINDS]
    some = _spread(task, batches)
    found: dict[str, Bend] = {}
    with torch.no_grad(), frozen(model):
        replay = Replay(model)
        with replay.recording(len(some)):
            before = [_said(task, model, batch) for batch in some]

        def measured(names: Sequence[str], code: str) -> Point | None:
            with coded(names, code) as errors, replay.changed(names):
                expected = sum(weights[name] * error for name, error in errors.items())
                loss = _loss(model, task, some, before) if expected > 0 else 0.0
            return Point(sum(errors.values()) / len(errors), expected, loss) if 0 < loss < inf else None

        for done, kind in enumerate(largest, 1):
            parts = _parts(kinds[kind], weights)
            fine = measured(kinds[kind], FINE)
            coarse, rows = ([measured(names, code) for names in parts] for code in (COARSE, COARSE_ROWS))
            if fine is not None:
                for names, bend in zip(parts, _fitted(fine, coarse, rows), strict=True):
                    found.update(dict.fromkeys(names, bend))
            if progress is not None:
                progress(done, len(largest))
    return found


class Point(NamedTuple):
    """Mean relative squared error, the loss that the second order expects of it, and the measured loss."""

    error: float
    expected: float
    loss: float

    @property
    def ratio(self) -> float:
        return self.loss / self.expected


def _parts(names: Sequence[str], weights: Mapping[str, float]) -> list[list[str]]:
    """Names by weight, largest first, cut where they are no longer alike."""
    parts: list[list[str]] = []
    for name in sorted(names, key=lambda name: (-weights[name], name)):
        alike = bool(parts) and weights[parts[-1][0]] <= ALIKE * weights[name]
        if parts and (alike or len(parts) == MOST_PARTS):
            parts[-1].append(name)
        else:
            parts.append([name])
    return parts


def _fitted(fine: Point, coarse: Sequence[Point | None], rows: Sequence[Point | None]) -> list[Bend]:
    """A bend for each part of a kind. Five digits, so that what they steer is stable.

    fine    of all layers of the kind
    coarse  of each part; without it a part bends as all do
    rows    of each part, with one scale for a whole row; without it they bend as blocks do
    """
    factor, slope = _through(fine, [part for part in coarse if part is not None])
    found = []
    for in_blocks, in_rows in zip(coarse, rows, strict=True):
        of_blocks = slope if in_blocks is None else _bent(factor, in_blocks)
        of_rows = of_blocks if in_rows is None else _bent(factor, in_rows)
        found.append(Bend(*(float(f"{value:.5g}") for value in (factor, of_blocks, of_rows))))
    return found


def _through(fine: Point, coarse: Sequence[Point]) -> tuple[float, float]:
    """Factor and slope through the fine code and all coarse ones, as steep as it may be where that crosses
    0."""
    if not coarse:
        return _bounded(fine.ratio, _FACTORS), 0.0
    error = sum(point.error for point in coarse) / len(coarse)
    ratio = sum(point.loss for point in coarse) / sum(point.expected for point in coarse)
    apart = fine.ratio * error - ratio * fine.error
    steep = _bounded((ratio - fine.ratio) / apart, _SLOPES) if apart > 0 else _SLOPES[1]
    factor = _bounded(fine.ratio / (1 + steep * fine.error), _FACTORS)
    return factor, _bounded((ratio / factor - 1) / error, _SLOPES)


def _bent(factor: float, point: Point) -> float:
    return _bounded((point.ratio / factor - 1) / point.error, _SLOPES)


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
