"""Tokens are drawn as the settings say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from higgsx.errors import UsageError
from higgsx.runtime import sampling
from higgsx.runtime.sampling import Sampler, log_probabilities
from higgsx.runtime.settings import Settings

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.2, 0.15, 0.1], np.float32))


def drawn(logits: np.ndarray = LOGITS, count: int = 4000, **settings: object) -> np.ndarray:
    """How often each token comes."""
    sampler = Sampler(Settings(**{"temperature": 1.0, "seed": 3, **settings}))
    counts = np.zeros(len(logits))
    for _ in range(count):
        counts[sampler.pick(logits)] += 1
    return counts / count


def test_greedy() -> None:
    assert Sampler(Settings()).pick(LOGITS) == 1
    assert Sampler(Settings(temperature=0, top_k=2, top_p=0.1, seed=5)).pick(LOGITS) == 1
    assert Sampler(Settings()).pick(np.zeros(9, np.float32)) == 0


def test_shares_follow_the_logits() -> None:
    np.testing.assert_allclose(drawn(), np.exp(LOGITS), atol=0.03)
    squared = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(drawn(temperature=0.5), squared, atol=0.03)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_cold(temperature: float) -> None:
    assert drawn(count=50, temperature=temperature)[1] == 1


def test_top_k() -> None:
    found = drawn(top_k=2)
    np.testing.assert_allclose(found, [0, 2 / 3, 0, 1 / 3, 0, 0], atol=0.03)
    assert drawn(count=200, top_k=1)[1] == 1
    # of equal ones the first
    assert (drawn(np.zeros(5, np.float32), top_k=2)[2:] == 0).all()


def test_top_p() -> None:
    assert (drawn(top_p=0.55) > 0).tolist() == [False, True, False, True, False, False]
    assert (drawn(top_p=0.7) > 0).tolist() == [False, True, False, True, True, False]
    assert drawn(count=200, top_p=1e-9)[1] == 1
    assert (drawn(top_p=0.999999) > 0).all()


def test_top_p_after_top_k() -> None:
    """Shares are those among what top-k left: 0.4 of 0.6."""
    assert (drawn(top_k=2, top_p=0.6) > 0).sum() == 1
    assert (drawn(top_k=2, top_p=0.7) > 0).sum() == 2


def test_min_p() -> None:
    assert (drawn(min_p=0.3) > 0).tolist() == [False, True, False, True, True, False]


def test_seeds() -> None:
    flat = np.zeros(1000, np.float32)
    takes = [[Sampler(Settings(temperature=1, seed=s)).pick(flat) for _ in range(1)] for s in (1, 1, 2)]
    assert takes[0] == takes[1] != takes[2]


def test_repetition_penalty() -> None:
    logits = np.array([2.0, 1.9, -1.0, -1.1], np.float32)
    sampler = Sampler(Settings(repetition_penalty=1.5))
    assert [sampler.pick(logits) for _ in range(3)] == [0, 1, 0]
    assert Sampler(Settings(repetition_penalty=1.5), [0]).pick(logits) == 1
    # a negative score becomes more so
    assert Sampler(Settings(repetition_penalty=1.5), [0]).pick(logits[2:]) == 1
    np.testing.assert_array_equal(logits, np.array([2.0, 1.9, -1.0, -1.1], np.float32))


def test_large_vocabulary() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=150_000).astype(np.float32) * 3
    order = np.argsort(-logits)
    shares = np.exp(logits - logits.max(), dtype=np.float64)
    sums = np.cumsum(shares[order]) / shares.sum()
    nucleus = set(order[: int(np.searchsorted(sums, 0.5)) + 1].tolist())
    sampler = Sampler(Settings(temperature=1, top_p=0.5))
    assert {sampler.pick(logits) for _ in range(300)} <= nucleus
    sampler = Sampler(Settings(temperature=1, top_k=10))
    assert {sampler.pick(logits) for _ in range(300)} == set(order[:10].tolist())


@pytest.mark.parametrize("count", [1, 5, 1023, 1024, 1025, 2048, 5000])
@pytest.mark.parametrize("place", [0.0, 0.3, 1 - 2**-53])
def test_every_place_has_a_share(count: int, place: float) -> None:
    shares = np.random.default_rng(count).random(count).astype(np.float32)
    shares[: count // 3] = 0
    shares[count - count // 4 :] = 0
    sums = np.cumsum(shares, dtype=np.float64)
    found = sampling._at(shares, place)
    assert shares[found] > 0
    assert sums[found] == pytest.approx(max(place * sums[-1], sums[sums > 0][0]), abs=1.01, rel=1e-5)


def test_log_probabilities() -> None:
    own, likeliest = log_probabilities(LOGITS + 100, 3, 3)
    assert own == pytest.approx(math.log(0.2), abs=1e-4)
    assert [token for token, _ in likeliest] == [1, 3, 4]
    assert likeliest[0][1] == pytest.approx(math.log(0.4), abs=1e-4)
    assert log_probabilities(LOGITS, 0, 0)[1] == []
    assert len(log_probabilities(LOGITS, 0, 50)[1]) == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"stop": ("",)},
        {"logprobs": 21},
        {"logprobs": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict) -> None:
    with pytest.raises(UsageError):
        Settings(**settings)
