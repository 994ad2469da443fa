"""How well models do their work, in the words of the work: error rates of transcripts, right answers.

Both models are let do the whole task, greedily, and their answers are compared with what a person said is
right; where nobody said it, the answers of the compressed model with those of the original.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from higgsx.fidelity.figures import NOTHING, Estimate

RIGHT = "what is right"
ORIGINAL = "the original's answers"


@dataclass(frozen=True)
class Rate:
    """units  what an answer is made of and its errors are counted in: words, characters, the answer as one
    share  tell how many are right, not how many are wrong
    """

    name: str
    units: Callable[[str], Sequence[str]]
    share: bool = False


class Judge(Protocol):
    """Lets a model answer, and knows what is right."""

    @property
    def rates(self) -> Sequence[Rate]: ...

    def answers(self, model: Any, batch: Any) -> list[str]:
        """The model's answer for each item of the batch."""
        ...

    def right(self, batch: Any) -> Sequence[Sequence[str]]:
        """The right answers of each item (any of them will do); empty where nobody said it."""
        ...


@dataclass(frozen=True)
class Quality:
    """A rate of both models: errors over units, or the share of units that are right.

    against     what answers were compared with
    original    None inside where it is what the others are compared with
    difference  compressed minus original, with its own standard error (items are taken as independent)
    """

    name: str
    items: int
    against: str
    original: Estimate
    compressed: Estimate
    difference: Estimate


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's: insertions, deletions and replacements that turn one sequence into the other."""
    before = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
        before = row
    return before[-1]


def plain(text: str) -> str:
    """Lower case, letters and digits of any script alone, one space between words."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(
        one if unicodedata.category(one)[0] in "LMN" else "" if one in "'’" else " " for one in text
    )
    return " ".join(kept.split())


def qualities(
    judge: Judge,
    original: Any,
    compressed: Any,
    batches: Sequence[Any],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Quality, ...]:
    """All rates of a judge over all items of the batches."""
    answers: list[tuple[str, str]] = []
    right: list[Sequence[str]] = []
    for done, batch in enumerate(batches, 1):
        pairs = list(zip(judge.answers(original, batch), judge.answers(compressed, batch), strict=True))
        known = judge.right(batch)
        answers += pairs
        right += known or [()] * len(pairs)
        if progress is not None:
            progress(done, len(batches))
    told = [(pair, known) for pair, known in zip(answers, right, strict=True) if known]
    if told:
        return tuple(
            _rated(rate, [pair for pair, _ in told], [known for _, known in told]) for rate in judge.rates
        )
    return tuple(_agreed(rate, answers) for rate in judge.rates)


def _rated(rate: Rate, answers: Sequence[tuple[str, str]], right: Sequence[Sequence[str]]) -> Quality:
    counts = np.array(
        [
            [*_errors(rate, original, known), *_errors(rate, compressed, known)]
            for (original, compressed), known in zip(answers, right, strict=True)
        ],
        dtype=np.float64,
    )
    first, second = _ratio(counts[:, 0], counts[:, 1]), _ratio(counts[:, 2], counts[:, 3])
    difference = _difference(counts, first, second)
    if rate.share:
        first, second = _turned(first), _turned(second)
        difference = Estimate(None if difference.value is None else -difference.value, difference.error)
    return Quality(rate.name, len(answers), RIGHT, first, second, difference)


def _agreed(rate: Rate, answers: Sequence[tuple[str, str]]) -> Quality:
    counts = np.array([_errors(rate, compressed, [original]) for original, compressed in answers], np.float64)
    found = _ratio(counts[:, 0], counts[:, 1])
    return Quality(
        rate.name, len(answers), ORIGINAL, NOTHING, _turned(found) if rate.share else found, NOTHING
    )


def _errors(rate: Rate, answer: str, right: Sequence[str]) -> tuple[int, int]:
    """Errors and units, against the right answer that is nearest."""
    given = rate.units(answer)
    wanted = [rate.units(one) for one in right]
    found = [(distance(given, one), len(one)) for one in wanted]
    return min(found, key=lambda pair: (pair[0] / max(1, pair[1]), pair))


def _ratio(errors: NDArray[np.float64], units: NDArray[np.float64]) -> Estimate:
    """Errors over units with the standard error of a ratio of sums."""
    if units.sum() == 0:
        return NOTHING
    value = float(errors.sum() / units.sum())
    return Estimate(value, _error(errors - value * units, units.sum()))


def _error(rest: NDArray[np.float64], units: float) -> float | None:
    count = len(rest)
    return None if count < 2 else math.sqrt(count / (count - 1) * float(rest @ rest)) / float(units)


def _difference(counts: NDArray[np.float64], first: Estimate, second: Estimate) -> Estimate:
    if first.value is None or second.value is None:
        return NOTHING
    rest = (counts[:, 2] - second.value * counts[:, 3]) / counts[:, 3].sum()
    rest -= (counts[:, 0] - first.value * counts[:, 1]) / counts[:, 1].sum()
    return Estimate(second.value - first.value, _error(rest, 1.0))


def _turned(rate: Estimate) -> Estimate:
    return Estimate(None if rate.value is None else 1 - rate.value, rate.error)
