from __future__ import annotations

import pytest

from higgsx.almpq import Candidate, CostTable, Group


@pytest.fixture
def table() -> CostTable:
    """Two matrices with three candidates each, and a norm that has none to choose from."""

    def matrix(name: str, order: int, hurts: float) -> Group:
        rows = [("two", 250, hurts), ("four", 500, hurts / 16), ("eight", 1000, hurts / 4096)]
        candidates = tuple(
            Candidate(label, nbytes, nbytes + 24, loss, False, {"codec": label, "params": {"block": 64}})
            for label, nbytes, loss in rows
        )
        return Group(name, (name,), 1000, True, candidates, order=order)

    kept = Candidate("bf16", 20, 64, 0.0, True, {"codec": "dense", "params": {}})
    norm = Group("norm", ("norm.a", "norm.b"), 10, False, (kept,), "too small to compress", 1)
    return CostTable((matrix("down", 2, 0.1), norm, matrix("up", 0, 0.8)), "source", "Gaussian constants")
