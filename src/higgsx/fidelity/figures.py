"""Figures of damage and how they follow from per-token values. Sums in float64, quantiles exact.

A standard error is the larger of two: with every token taken as independent, and with whole windows taken as
independent (tokens of one window depend on each other; E. Miller, "Adding Error Bars to Evals", 2024,
clustered standard errors). A single window gives only the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Edges of the buckets of the original's highest probability; a bucket holds its lower edge."""

_LARGEST_EXPONENT = 700.0  # e^700 still is a float64


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error. None: there was nothing (or too little) to take it from."""

    value: float | None
    error: float | None


NOTHING = Estimate(None, None)


@dataclass(frozen=True)
class Spread:
    """A loss at each position: KL(original ‖ compressed) in nats per token, or relative squared error."""

    mean: Estimate
    median: float | None
    p90: float | None
    p99: float | None
    p999: float | None
    largest: float | None


@dataclass(frozen=True)
class Bucket:
    """Tokens at which the original's highest probability lies in [low, high)."""

    low: float
    high: float
    tokens: int
    kl: Estimate
    top1: Estimate


@dataclass(frozen=True)
class Vectors:
    """error   squared distance over squared length of the original's vector, at each position
    cosine  mean at positions; least: the lowest of them
    texts   how many whole texts were compared by one vector each, with the mean and lowest of their cosines
    """

    error: Spread
    cosine: Estimate
    least: float | None
    texts: int
    pooled: Estimate
    pooled_least: float | None


@dataclass(frozen=True)
class Figures:
    """What was measured on `tokens` predicted tokens. Broken ones (NaN, Inf) are counted and left out.

    vectors  of models that give hidden states: then everything about probabilities is None
    """

    tokens: int
    windows: int
    broken_original: int
    broken_compressed: int
    kl: Spread
    top1: Estimate
    original: Estimate
    compressed: Estimate
    log_ratio: Estimate
    buckets: tuple[Bucket, ...]
    vectors: Vectors | None = None

    @property
    def loss(self) -> Estimate:
        """What was lost, in `unit`."""
        return self.kl.mean if self.vectors is None else self.vectors.error.mean

    @property
    def unit(self) -> str:
        return "nats per token" if self.vectors is None else "relative squared error"


@dataclass(frozen=True)
class Tokens:
    """Values per token, one-dimensional and of equal length. Losses are nats at the text's own next token."""

    window: NDArray[np.int64]
    kl: NDArray[np.float32]
    agrees: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    loss_original: NDArray[np.float64]
    loss_compressed: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.window)

    def columns(self) -> tuple[NDArray[Any], ...]:
        return (
            self.window,
            self.kl,
            self.agrees,
            self.confidence,
            self.loss_original,
            self.loss_compressed,
        )

    def only(self, keep: NDArray[np.bool_]) -> Tokens:
        return Tokens(*(column[keep] for column in self.columns()))

    @classmethod
    def joined(cls, parts: Sequence[Tokens]) -> Tokens:
        if not parts:
            types = (np.int64, np.float32, np.bool_, np.float32, np.float64, np.float64)
            nothing: list[Any] = [np.empty(0, dtype) for dtype in types]
            return cls(*nothing)
        return cls(*map(np.concatenate, zip(*(part.columns() for part in parts), strict=True)))


def estimate(values: NDArray[np.generic], window: NDArray[np.int64]) -> Estimate:
    """Mean of `values` with its standard error; `window` says which values belong together."""
    count = len(values)
    if count == 0:
        return Estimate(None, None)
    exact = values.astype(np.float64)
    mean = float(exact.mean())
    if count == 1:
        return Estimate(mean, None)
    rest = exact - mean
    by_token = math.sqrt(float(rest @ rest) / (count - 1) / count)
    _, owner = np.unique(window, return_inverse=True)
    sums = np.bincount(owner, weights=rest)
    groups = len(sums)
    by_window = math.sqrt(float(sums @ sums) * groups / (groups - 1)) / count if groups > 1 else 0.0
    return Estimate(mean, max(by_token, by_window))


def figures(tokens: Tokens, windows: int) -> Figures:
    """All figures of one text. `windows` is the number of windows that were run."""
    whole = np.isfinite(tokens.loss_original) & np.isfinite(tokens.confidence)
    fine = whole & np.isfinite(tokens.kl) & np.isfinite(tokens.loss_compressed)
    kept = tokens.only(fine)
    return Figures(
        tokens=len(kept),
        windows=windows,
        broken_original=int((~whole).sum()),
        broken_compressed=int((whole & ~fine).sum()),
        kl=spread(kept.kl, kept.window),
        top1=estimate(kept.agrees, kept.window),
        original=_perplexity(estimate(kept.loss_original, kept.window)),
        compressed=_perplexity(estimate(kept.loss_compressed, kept.window)),
        log_ratio=estimate(kept.loss_compressed - kept.loss_original, kept.window),
        buckets=_buckets(kept),
    )


def spread(values: NDArray[Any], window: NDArray[np.int64]) -> Spread:
    """Mean and quantiles; `window` says which values belong together."""
    mean = estimate(values, window)
    if len(values) == 0:
        return Spread(mean, None, None, None, None, None)
    points = np.quantile(values.astype(np.float64), (0.5, 0.9, 0.99, 0.999, 1.0))
    median, p90, p99, p999, largest = (float(point) for point in points)
    return Spread(mean, median, p90, p99, p999, largest)


def _perplexity(loss: Estimate) -> Estimate:
    """exp of the mean loss; its standard error by the delta method."""
    if loss.value is None or loss.value > _LARGEST_EXPONENT:
        return Estimate(None, None)
    value = math.exp(loss.value)
    return Estimate(value, None if loss.error is None else value * loss.error)


def _buckets(tokens: Tokens) -> tuple[Bucket, ...]:
    place = np.digitize(tokens.confidence, CONFIDENCE[1:-1])
    buckets = []
    for index, (low, high) in enumerate(zip(CONFIDENCE, CONFIDENCE[1:], strict=False)):
        part = tokens.only(place == index)
        kl, top1 = estimate(part.kl, part.window), estimate(part.agrees, part.window)
        buckets.append(Bucket(low, high, len(part), kl, top1))
    return tuple(buckets)
