"""Run two models over the same windows and collect how far apart they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from higgsx.errors import ModelError, TextError
from higgsx.fidelity import distance, divergence
from higgsx.fidelity.distance import Distance
from higgsx.fidelity.divergence import Divergence
from higgsx.fidelity.figures import Figures
from higgsx.fidelity.quality import Judge, Quality, qualities
from higgsx.fidelity.report import Arithmetic, Damage
from higgsx.nn.evaluating import evaluating
from higgsx.tasks import LanguageModel, Task

PIECE = 128
"""Positions whose logits are held at a time where the task can run the head on its own."""

Progress = Callable[[int, int], None]


def compare(
    original: Any,
    compressed: Any,
    windows: Mapping[str, Sequence[Any]] | Sequence[Any],
    *,
    arithmetic: Arithmetic,
    text: str,
    task: Task | None = None,
    floor: Any = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> Damage:
    """Damage of `compressed` against `original` on `windows`, batches of `task` (default: token ids [1, T]).

    `windows` are of one domain, or of several by name. `floor` is the original in a coarser arithmetic; how
    far it is from `original` is the noise floor, below which figures say nothing. `text` says in words what
    was measured on, `arithmetic` in which mode each model ran. `task` says how a model is called (default:
    `model(window)`). `judge` lets both models do their work and rates the answers, too. `progress(done, all)`
    is called after each window. Modules are put into evaluation mode and back. Errors: TextError where there
    is no window, ModelError where outputs do not match.
    """
    domains = dict(windows) if isinstance(windows, Mapping) else {"all": windows}
    total = sum(map(len, domains.values()))
    if total == 0:
        raise TextError("no text to measure on", got="no windows", expected="one or more")
    models = [original, compressed] if floor is None else [original, compressed, floor]
    how: Task = LanguageModel() if task is None else task
    new = Distance if how.outputs == "vectors" else Divergence
    divided: dict[str, Collector] = {name: new() for name in domains}
    noise = new()
    done = 0
    rated: tuple[Quality, ...] = ()
    with torch.no_grad(), evaluating(models):
        for name, members in domains.items():
            for window in members:
                _one_window(how, models, window, [divided[name], noise])
                done += 1
                if progress is not None:
                    progress(done, total)
        if judge is not None:
            every = [window for members in domains.values() for window in members]
            rated = qualities(judge, original, compressed, every, progress)
    return Damage(
        total=_together(list(divided.values())),
        domains={name: part.figures() for name, part in divided.items()} if len(domains) > 1 else {},
        floor=None if floor is None else noise.figures(),
        arithmetic=arithmetic,
        text=text,
        longest=max(_length(how, window) for members in domains.values() for window in members),
        kind=how.kind,
        quality=rated,
    )


Collector = Divergence | Distance


def _together(parts: Sequence[Collector]) -> Figures:
    if isinstance(parts[0], Distance):
        return distance.together([part for part in parts if isinstance(part, Distance)])
    return divergence.together([part for part in parts if isinstance(part, Divergence)])


def _length(task: Task, window: Any) -> int:
    """Tokens of a window; of anything else the positions of a batch."""
    return int(window.shape[-1]) if isinstance(window, torch.Tensor) else len(task.labels(window))


def _one_window(task: Task, models: Sequence[Any], window: Any, into: Sequence[Collector]) -> None:
    """The first model's outputs against each of the others', piece by piece in step."""
    labels = task.labels(window)
    others = list(zip(into, range(1, len(models)), strict=False))
    for collector, _ in others:
        collector.begin_window()
    if task.outputs == "vectors":
        rows = [task.call(model, window) for model in models]
        pooled = getattr(task, "pooled", None)
        for collector, index in others:
            collector.add(rows[0], rows[index], labels)
            if pooled is not None and isinstance(collector, Distance):
                collector.add_wholes(pooled(rows[0], window), pooled(rows[index], window))
        return
    begin = 0
    streams = [task.pieces(model, window, PIECE) for model in models]
    for logits in zip(*streams, strict=False):
        part = labels[begin : begin + len(logits[0])]
        for collector, index in others:
            collector.add(logits[0], logits[index], part)
        begin += len(logits[0])
    if begin != len(labels):
        raise ModelError("a model gives outputs for too few positions", got=begin, expected=len(labels))
