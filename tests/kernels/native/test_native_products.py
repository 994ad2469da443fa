"""Prepared activations and products equal the emulation of the header, bit for bit, on every tier."""

from __future__ import annotations

import machine
import numpy as np
import pytest
from cases import Trial, covering, trial

import numerics
from numerics import FLOAT, INT8, INT16, same
from payloads import FORMATS, Panels, random_panels

PARTS = 10
"""Cases are split over so many tests."""


def _describe(t: Trial) -> str:
    return f"{machine.native.load().tier}: {t.case}"


@pytest.mark.parametrize("part", range(PARTS))
def test_covering_cases(tier: str, part: int) -> None:
    for number in range(part, len(covering()), PARTS):
        t = trial(number)
        with machine.using(threads=t.case.threads):
            m = machine.matrix(t.w)
            raw = machine.prepare(m, t.x, t.case.mode, t.case.x, t.case.extra)
            found = machine.sections(raw, t.case.tokens, t.case.inputs, t.case.mode)
            for name, expected in numerics.sections(t.prepared, t.case.mode):
                assert same(found[name], expected), (name, _describe(t))
            y = machine.multiply(
                m, raw, t.case.tokens, t.case.mode, t.case.mode, t.bias, t.before, t.case.y, t.case.extra
            )
            assert same(y, t.expected), _describe(t)
            if t.before is None:
                extra = (t.case.extra, t.case.extra)
                y = machine.linear(m, t.x, t.case.mode, t.bias, t.case.x, t.case.y, extra)
                assert same(y, t.expected), ("hgx_linear", _describe(t))


def test_prepared_for_several_modes_serves_each(tier: str) -> None:
    rng = np.random.default_rng(3)
    w = random_panels(rng, 20, 200, 6, 64, "u8", width=32)
    x = rng.standard_normal((3, 200)).astype(np.float32)
    expected = numerics.prepare(w, x)
    m = machine.matrix(w)
    for modes in range(1, 8):
        raw = machine.prepare(m, x, modes)
        found = machine.sections(raw, 3, 200, modes)
        assert list(found) == [name for name, _ in numerics.sections(expected, modes)]
        for mode in (INT8, INT16, FLOAT):
            if modes & mode:
                y = machine.multiply(m, raw, 3, modes, mode)
                assert same(y, numerics.multiply(w, expected, mode)), (modes, mode)


def test_a_row_is_the_same_in_any_company(tier: str) -> None:
    """Tokens alone, together and in any number of threads: equal bits, in every mode and format family."""
    rng = np.random.default_rng(4)
    for code, block, scale, zero in FORMATS[:: len(FORMATS) // 14]:
        w = random_panels(rng, 70, 300, code, block, scale, zero, width=64)
        x = rng.standard_normal((33, 300)).astype(np.float32)
        m = machine.matrix(w)
        for mode in (INT8, INT16, FLOAT):
            with machine.using(threads=1):
                alone = np.concatenate([machine.linear(m, x[t : t + 1], mode) for t in range(33)])
            for tokens in (*range(2, 10), 15, 16, 17, 33):
                with machine.using(threads=1 + tokens % 4):
                    together = machine.linear(m, x[-tokens:], mode)
                assert same(together, alone[-tokens:]), (code, block, scale, zero, mode, tokens)


def test_any_width_and_segment_of_the_transform(tier: str) -> None:
    rng = np.random.default_rng(5)
    for width in (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        for inputs, segment in ((width, 0), (width + 1, 0), (2100, 0), (2100, 700), (95, 19), (600, 200)):
            w = random_panels(rng, 1, inputs, 2, 0, "row", width=width, segment=segment)
            x = rng.standard_normal((2, inputs)).astype(np.float32)
            found = machine.sections(machine.prepare(machine.matrix(w), x, 7), 2, inputs, 7)
            for name, expected in numerics.sections(numerics.prepare(w, x), 7):
                assert same(found[name], expected), (width, inputs, segment, name)


def test_a_multiplier_without_butterflies(tier: str) -> None:
    rng = np.random.default_rng(6)
    plain = random_panels(rng, 5, 140, 4, 32, "f16")
    scales = rng.uniform(0.1, 9, 140).astype(np.float32)
    w = Panels(**{**plain.__dict__, "multiplier": scales, "cache": {}})
    x = rng.standard_normal((2, 140)).astype(np.float32)
    expected = numerics.prepare(w, x)
    found = machine.sections(machine.prepare(machine.matrix(w), x, INT8 | FLOAT), 2, 140, INT8 | FLOAT)
    assert same(found["q1"], expected.q1) and same(found["x"], expected.x)


def test_the_largest_sums_do_not_overflow(tier: str) -> None:
    """All codes at one end, all activations at one end, whatever the centre."""
    for bits, centre in ((8, 0), (8, 512), (8, 256), (2, 8), (5, 64), (6, 0)):
        for byte in (0, 255):
            for sign in (1, -1):
                w = random_panels(np.random.default_rng(7), 17, 256, bits, 0, "row", centre=centre)
                w.data[...] = byte
                x = np.full((2, 256), sign * 3e38, np.float32)
                for mode in (INT8, INT16):
                    p = numerics.prepare(w, x)
                    y = machine.linear(machine.matrix(w), x, mode)
                    assert same(y, numerics.multiply(w, p, mode)), (bits, centre, byte, sign, mode)


def test_exponents_and_scales_at_their_ends(tier: str) -> None:
    rng = np.random.default_rng(8)
    for exponent in (-64, -63, 63, 64):
        for block, scale in ((0, "row"), (32, "u8"), (128, "f16")):
            for zero in ("none", "f16", "min"):
                w = random_panels(rng, 16, 130, 4, block, scale, zero, exponent=exponent)
                if w.rows is not None:
                    halves = w.rows[:, :32].view(np.float16)
                    halves[...] = np.resize(np.array([65504, -65504, 6e-8, 0, -0.0, 6e-5], np.float16), 16)
                x = rng.standard_normal((2, 130)).astype(np.float32) * np.float32(1e-3)
                for mode in (INT8, FLOAT):
                    expected = numerics.multiply(w, numerics.prepare(w, x), mode)
                    assert same(machine.linear(machine.matrix(w), x, mode), expected), (exponent, block, zero)


def test_nothing_finite_comes_of_what_is_not(tier: str) -> None:
    """NaN or infinity in one token: NaN in all of its results, and in no other token."""
    rng = np.random.default_rng(9)
    for poison in (np.nan, np.inf, -np.inf):
        for mode in (INT8, INT16):
            w = random_panels(rng, 33, 200, 4, 32, "u8", width=32)
            x = rng.standard_normal((3, 200)).astype(np.float32)
            clean = machine.linear(machine.matrix(w), x, mode)
            x[1, 77] = poison
            y = machine.linear(machine.matrix(w), x, mode)
            assert np.isnan(y[1]).all()
            assert same(y[[0, 2]], clean[[0, 2]])


def test_dense(tier: str) -> None:
    rng = np.random.default_rng(10)
    for dtype in ("f32", "f16", "bf16"):
        for transposed in (False, True):
            for outputs, inputs, tokens in (
                (1, 1, 1),
                (17, 33, 5),
                (16, 16, 2),
                (40, 129, 17),
                (3, 257, 4),
                (130, 31, 9),
            ):
                plain = rng.standard_normal((outputs, inputs)).astype(np.float32)
                stored = numerics.store(np.ascontiguousarray(plain.T if transposed else plain), dtype)
                x = rng.standard_normal((tokens, inputs)).astype(np.float32)
                bias = rng.standard_normal(outputs).astype(np.float32) if tokens % 2 else None
                expected = numerics.dense(numerics.load(stored, dtype), x, transposed, bias)
                m = machine.dense_matrix(stored, dtype, transposed)
                for threads in (1, 3):
                    with machine.using(threads=threads):
                        raw = machine.prepare(m, x, FLOAT)
                        y = machine.multiply(m, raw, tokens, FLOAT, FLOAT, bias)
                        assert same(y, expected), (dtype, transposed, outputs, inputs, tokens, threads)
                        y = machine.linear(m, x, FLOAT, bias, "f32", "f32", (2, 3))
                        assert same(y, expected)


def test_payloads_need_not_be_aligned(tier: str) -> None:
    def shifted(array: np.ndarray) -> np.ndarray:
        if array.dtype != np.uint8:
            return array
        moved = np.empty(array.size + 1, np.uint8)[1:].reshape(array.shape)
        moved[...] = array
        return moved

    rng = np.random.default_rng(12)
    x = rng.standard_normal((3, 200)).astype(np.float32)
    for code, block, scale, zero in FORMATS[::5]:
        w = random_panels(rng, 33, 200, code, block, scale, zero)
        m, p = machine.matrix(w, shifted), numerics.prepare(w, x)
        assert m.data % 2 == 1
        for mode in (INT8, FLOAT):
            assert same(machine.linear(m, x, mode), numerics.multiply(w, p, mode))
        assert same(machine.decode(m, 0, 33), numerics.decode(w))
