"""Logits → the next token. Greedy, or drawn after temperature, top-k, top-p and min-p, in that order.

Nothing sorts the whole vocabulary: what a filter cannot keep is left out by a bound first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from higgsx.runtime.settings import Settings

_BLOCK = 1024
_BOUNDS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 0.0)
_COLDEST = 1e-30
"""Below, float32 has no number left to divide by; the likeliest token alone is left long before."""


class Sampler:
    """Draws tokens for one text."""

    def __init__(self, settings: Settings, said: Sequence[int] = ()) -> None:
        """said: tokens of the prompt; the repetition penalty counts them."""
        self._settings = settings
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        self._said = set(said)

    def pick(self, logits: np.ndarray) -> int:
        """logits: float32 `[vocabulary]`, left as they are."""
        settings = self._settings
        if settings.repetition_penalty != 1 and self._said:
            logits = self._penalised(logits)
        token = int(np.argmax(logits)) if settings.temperature == 0 else self._draw(logits)
        self._said.add(token)
        return token

    def _penalised(self, logits: np.ndarray) -> np.ndarray:
        ids = np.fromiter(self._said, np.int64, len(self._said))
        changed = logits.copy()
        scores = logits[ids]
        penalty = np.float32(self._settings.repetition_penalty)
        changed[ids] = np.where(scores < 0, scores * penalty, scores / penalty)
        return changed

    def _draw(self, logits: np.ndarray) -> int:
        settings = self._settings
        ids: np.ndarray | None = None
        if 0 < settings.top_k < len(logits):
            ids = _highest(logits, settings.top_k)
            logits = logits[ids]
        with np.errstate(over="ignore", under="ignore"):
            # over the largest share, which is 1
            shares = np.exp((logits - logits.max()) / np.float32(max(settings.temperature, _COLDEST)))
        if settings.top_p < 1 or settings.min_p > 0:
            kept = _kept(shares, settings.top_p, settings.min_p)
            ids, shares = kept if ids is None else ids[kept], shares[kept]
        index = _at(shares, self._random.random())
        return index if ids is None else int(ids[index])


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` highest scores in ascending order; of equal ones the first."""
    least = np.partition(scores, -count)[-count]
    above = np.flatnonzero(scores > least)
    equal = np.flatnonzero(scores == least)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def _kept(shares: np.ndarray, top_p: float, min_p: float) -> np.ndarray:
    """Indices of the likeliest shares that sum up to `top_p` of all, the fewest, none below `min_p`."""
    if top_p == 1:
        return np.flatnonzero(shares >= min_p)
    wanted = top_p * float(shares.sum())
    # those above a bound are enough where they sum up to it: few have to be sorted
    for least in _BOUNDS:
        near = np.flatnonzero(shares >= max(least, min_p))
        if least <= min_p or float(shares[near].sum()) >= wanted:
            break
    near = near[np.argsort(-shares[near], kind="stable")]
    sums = np.cumsum(shares[near], dtype=np.float64)
    return near[: int(np.searchsorted(sums, wanted, side="left")) + 1]


def _at(shares: np.ndarray, place: float) -> int:
    """Which share covers a place from 0 to 1, when they stand in a row: first of blocks, then within one."""
    whole = len(shares) // _BLOCK * _BLOCK
    blocks = shares[:whole].reshape(-1, _BLOCK).sum(axis=1)
    sums = np.cumsum(np.append(blocks, shares[whole:].sum()), dtype=np.float64)
    place *= sums[-1]
    # sums in another order may differ in the last bit: stay where there is a share
    block = min(int(np.searchsorted(sums, place, side="right")), int(np.argmax(sums)))
    before = sums[block - 1] if block else 0.0
    inner = np.cumsum(shares[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    index = min(int(np.searchsorted(inner, place - before, side="right")), int(np.argmax(inner)))
    return block * _BLOCK + index


def log_probabilities(logits: np.ndarray, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Of a token, and of the `count` likeliest ones, likeliest first, in nats."""
    highest = float(logits.max())
    total = highest + float(np.log(np.sum(np.exp(logits - np.float32(highest)), dtype=np.float64)))
    likeliest: list[tuple[int, float]] = []
    if count:
        ids = _highest(logits, min(count, len(logits)))
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        likeliest = [(int(i), float(logits[i]) - total) for i in ids]
    return float(logits[token]) - total, likeliest
