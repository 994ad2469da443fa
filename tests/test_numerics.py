"""The emulation that native kernels are judged by is judged itself, by exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

import numerics

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _nearest(exact: Fraction) -> float:
    """binary32 to nearest, ties to even, computed in whole numbers."""
    if exact == 0:
        return 0.0
    size, exponent = abs(exact), -149
    while size / Fraction(2) ** exponent >= 1 << 24:
        exponent += 1
    steps = size / Fraction(2) ** exponent
    whole = steps.numerator // steps.denominator
    rest = steps - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    value = whole * Fraction(2) ** exponent
    found = float(value) if value < 2**128 else float("inf")
    return found if exact > 0 else -found


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, NUMBERS)
@example(1.0 + 2.0**-23, 1.0 + 2.0**-23, 2.0**-100)
@example(4097.0, 4095.0 * 2.0**-50, 2.0**23 + 1)
@example(2.0**-75, 2.0**-75, 2.0**-149)
@example(-(2.0**-80), 2.0**-80, 1.0)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    got = float(numerics.fma(*(np.array([x], np.float32) for x in (a, b, c)))[0])
    assert got == _nearest(Fraction(a) * Fraction(b) + Fraction(c))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 22))
def test_fma_next_to_ties(bits: int) -> None:
    """The sum of 1 and a little less or more than half a unit."""
    half = Fraction(2) ** -24
    for sign in (1, -1):
        x = np.float32(float(half * (1 + sign * Fraction(2) ** -bits)))
        got = numerics.fma(x, np.float32(1 + 2.0**-20), np.float32(1))
        assert float(got) == _nearest(Fraction(float(x)) * Fraction(1 + 2.0**-20) + 1)


def test_bf16_to_nearest_even() -> None:
    x = np.array(
        [1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3.4e38, np.inf, np.nan], np.float32
    )
    expected = [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -1.0, np.inf, np.inf]
    back = numerics.from_bf16(numerics.to_bf16(x))
    assert back[:-1].tolist() == expected and np.isnan(back[-1])


def test_same_tells_zeros_apart_and_nan_not() -> None:
    nan = np.array([0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    assert numerics.same(nan[:1], nan[1:])
    assert not numerics.same(np.float32([0.0]), np.float32([-0.0]))
    assert not numerics.same(np.float32([1.0]), np.float64([1.0]))
