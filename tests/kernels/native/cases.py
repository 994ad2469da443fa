"""Which products are tried: every pair of two properties occurs together, in a few hundred cases."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from machine import NUMPY

import numerics
from numerics import FLOAT, INT8, INT16
from payloads import FORMATS, Panels, random_panels

EVERYTHING = "HIGGSX_TEST_EVERYTHING"
"""With this variable set many more cases run."""

PROPERTIES: dict[str, tuple[object, ...]] = {
    "format": FORMATS,
    "outputs": (1, 2, 15, 16, 17, 31, 33, 65),
    "inputs": (1, 5, 31, 32, 33, 96, 127, 128, 129, 160, 200, 257, 384),
    "tokens": (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 33),
    "width": (0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    "segment": (0, 0, 1, 2, 3),
    "mode": (INT8, INT16, FLOAT),
    "x": ("f32", "f16", "bf16"),
    "y": ("f32", "f16", "bf16"),
    "threads": (1, 2, 3, 4, 7),
    "bias": (False, True),
    "add": (False, True),
    "extra": (0, 1, 3),
    "exponent": (0, -3, 7),
    "input": ("ordinary", "ordinary", "large", "tiny", "zeros", "broken"),
    "bytes": ("ordinary", "ordinary", "any"),
}


@dataclass(frozen=True)
class Case:
    number: int
    format: tuple[int | str, int, str, str]
    outputs: int
    inputs: int
    tokens: int
    width: int
    segment: int
    mode: int
    x: str
    y: str
    threads: int
    bias: bool
    add: bool
    extra: int
    exponent: int
    input: str
    bytes: str


@dataclass(frozen=True)
class Trial:
    """A case with its data and what must come out."""

    case: Case
    w: Panels
    x: np.ndarray
    bias: np.ndarray | None
    before: np.ndarray | None
    prepared: numerics.Prepared
    expected: np.ndarray


@lru_cache(maxsize=1)
def covering() -> list[Case]:
    """Greedy: of some random cases the one with the most pairs that have not been seen yet.

    Formats count as one property, but pairs with each of its parts are covered too, being fewer.
    """
    rng = np.random.default_rng(11)
    names = list(PROPERTIES)
    parts = {name: range(len(values)) for name, values in PROPERTIES.items()}
    # all pairs of the properties but the formats, and every format with mode and width of tokens
    small = [name for name in names if name != "format"]
    missing = {
        (a, i, b, j) for a, b in itertools.combinations(small, 2) for i in parts[a] for j in parts[b]
    } | {("format", i, "mode", j) for i in parts["format"] for j in parts["mode"]}
    wanted = 3000 if os.environ.get(EVERYTHING) else 0
    cases: list[Case] = []
    while missing or len(cases) < wanted:
        best: dict[str, int] = {}
        gain = -1
        for _ in range(12):
            drawn = {name: int(rng.integers(len(values))) for name, values in PROPERTIES.items()}
            if missing:
                a, i, b, j = next(iter(sorted(missing)[:1]))
                drawn[a], drawn[b] = i, j
            found = sum(pair in missing for pair in _pairs(drawn))
            if found > gain:
                best, gain = drawn, found
        missing.difference_update(_pairs(best))
        values = {name: PROPERTIES[name][index] for name, index in best.items()}
        cases.append(Case(number=len(cases), **values))  # type: ignore[arg-type]
    return cases


def _pairs(drawn: dict[str, int]) -> list[tuple[str, int, str, int]]:
    return [(a, drawn[a], b, drawn[b]) for a, b in itertools.combinations(PROPERTIES, 2)]


def activations(rng: np.random.Generator, kind: str, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """In `dtype`. broken: NaN and infinities here and there."""
    x = rng.standard_normal(shape)
    if kind == "large":
        x = np.where(rng.random(shape) < 0.2, np.sign(x) * 65504, x)
    if kind == "tiny":
        x = x * (1e-40 if dtype == "f32" else 6e-8)
    if kind == "zeros":
        x[rng.random(shape[0]) < 0.6] = 0
        x[:, 128:256] = 0
    if kind == "broken":
        x[rng.random(shape) < 0.05] = np.inf
        x[rng.random(shape) < 0.02] = -np.inf
        x[rng.random(shape) < 0.02] = np.nan
    return numerics.store(x.astype(np.float32), dtype)


@cache
def trial(number: int) -> Trial:
    case = covering()[number]
    rng = np.random.default_rng(1000 + number)
    code, block, scale, zero = case.format
    w = random_panels(
        rng, case.outputs, case.inputs, code, block, scale, zero, width=case.width,
        segment=case.segment * case.inputs // 4, exponent=case.exponent, any_bytes=case.bytes == "any",
    )  # fmt: skip
    x = activations(rng, case.input, (case.tokens, case.inputs), case.x)
    bias = rng.standard_normal(case.outputs).astype(np.float32) if case.bias else None
    before = activations(rng, "ordinary", (case.tokens, case.outputs), case.y) if case.add else None
    prepared = numerics.prepare(w, numerics.load(x, case.x))
    expected = numerics.multiply(w, prepared, case.mode, bias, before, case.y)
    assert expected.dtype == NUMPY[case.y]
    return Trial(case, w, x, bias, before, prepared, expected)
