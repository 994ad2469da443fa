"""Each step of a decoder alone: against binary64 within what binary32 allows, or exactly where it is exact.

ROWS tokens at once equal each of them alone, in every step, since programs promise it.
"""

from __future__ import annotations

import math

import machine
import numpy as np
import pytest
from programs import Cache, empty_buffer, random_buffer, run, step

import numerics
from higgsx.kernels import structs
from higgsx.kernels.structs import Step
from numerics import FLOAT, INT8, INT16, same
from payloads import random_panels

ROWS = 5
EPS = 2.0**-24
"""Half a unit in the last place, relative."""


def _close(got: np.ndarray, expected: np.ndarray, bound: np.ndarray | float, what: object = "") -> None:
    assert got.dtype == np.float32
    worst = np.max(np.abs(got.astype(np.float64) - expected) / bound)
    assert worst <= 1, (what, worst)


def _apply(made: Step, x: np.ndarray, out: np.ndarray, **more: object) -> None:
    """Buffers 0 and 1; afterwards each row alone must give the same."""
    before = x.copy()
    machine.ok(run([made], [x, out], len(x), **more))  # type: ignore[arg-type]
    for row in range(len(x)):
        one, alone = before[row : row + 1].copy(), np.full_like(out[row : row + 1], np.nan)
        machine.ok(run([made], [one, alone], 1, position=[row]))
        target, source = (one, x) if made.out == 0 else (alone, out)
        assert same(target[0], source[row])


def test_embed(tier: str) -> None:
    rng = np.random.default_rng(40)
    table, places = random_panels(rng, 50, 40, 4, 32, "u8", width=8), random_panels(rng, 20, 40, 8, 0, "row")
    ids, position = [49, 0, 7, 7], [3, 4, 9, 17]
    rows, more = numerics.decode(table)[ids], numerics.decode(places)[[at + 2 for at in position]]
    m, p = machine.matrix(table), machine.matrix(places)
    for scale in (1.0, 2.5):
        out = empty_buffer(4, 43)
        steps = [step(structs.EMBED, out=0, out_column=2, matrix=m, scale=scale)]
        machine.ok(run(steps, [out], 4, ids=ids, position=position))
        assert same(out[:, 2:42], np.float32(scale) * rows)
        assert np.isnan(out[:, [0, 1, 42]]).all()
        steps.append(step(structs.EMBED, out=0, out_column=2, matrix=p, scale=1.0, flags=1, kind=2))
        machine.ok(run(steps, [out], 4, ids=ids, position=position))
        assert same(out[:, 2:42], np.float32(scale) * rows + more)


@pytest.mark.parametrize("width", [1, 15, 16, 33, 64, 100, 257, 1024])
def test_norm(tier: str, width: int) -> None:
    rng = np.random.default_rng(41)
    for kind in (0, 1):
        for groups in (1, 3):
            for mean, offset in ((0.0, 0.0), (7.0, 1.0)):
                x = random_buffer(rng, ROWS, width * groups + 4) + np.float32(mean)
                weight = rng.standard_normal(width).astype(np.float32)
                bias = rng.standard_normal(width).astype(np.float32) if kind else None
                out = empty_buffer(ROWS, width * groups + 2)
                fields = {"bias": bias} if kind else {}
                made = step(
                    structs.NORM, kind=kind, out=1, in_column=3, out_column=1, width=width * groups,
                    groups=groups, weight=weight, eps=1e-5, offset=offset, **fields,
                )  # fmt: skip
                _apply(made, x, out)
                exact = x[:, 3 : 3 + width * groups].astype(np.float64).reshape(ROWS, groups, width)
                middle = exact.mean(-1, keepdims=True) if kind else np.zeros((ROWS, groups, 1))
                spread = ((exact - middle) ** 2).mean(-1, keepdims=True) + np.float64(np.float32(1e-5))
                gain = weight.astype(np.float64) + offset
                y = (exact - middle) / np.sqrt(spread) * gain
                # mean: a sum in width / 64 + 6 steps; squares likewise, halved by the root; then few others
                chain = width / 64 + 12
                size = np.abs(exact).mean(-1, keepdims=True) if kind else 0
                bound = EPS * chain * (np.abs(y) + (size + np.abs(middle)) / np.sqrt(spread) * np.abs(gain))
                if kind:
                    # the mean's error moves the spread too, where numbers are far from 0
                    bound = bound + np.abs(y) * EPS * chain * np.abs(middle) / np.sqrt(spread)
                    y = y + bias
                    bound = bound + 2 * EPS * np.abs(y)
                got = out[:, 1 : 1 + width * groups].reshape(ROWS, groups, width)
                _close(got, y, bound + 1e-30, (kind, groups, mean, width))
                assert np.isnan(out[:, [0, -1]]).all()


def test_norm_in_place_and_without_a_weight(tier: str) -> None:
    x = random_buffer(np.random.default_rng(42), ROWS, 70)
    expected = x.astype(np.float64)
    expected = expected / np.sqrt((expected**2).mean(-1, keepdims=True) + np.float64(np.float32(1e-6)))
    machine.ok(run([step(structs.NORM, width=70, eps=1e-6)], [x], ROWS))
    _close(x, expected, EPS * 20 * np.abs(expected) + 1e-30)


@pytest.mark.parametrize("kind", [0, 1])
def test_rope(tier: str, kind: int) -> None:
    rng = np.random.default_rng(43)
    for head_dim, rotary in ((8, 8), (64, 64), (80, 20), (34, 34), (128, 64), (6, 2)):
        heads, half = 3, rotary // 2
        angles = rng.uniform(-9, 9, (ROWS + 4, half))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        x = random_buffer(rng, ROWS, heads * head_dim + 5)
        before = x.copy()
        position = [0, 1, 3, 7, 8]
        made = step(
            structs.ROPE, kind=kind, heads=heads, head_dim=head_dim, rotary=rotary, in_column=2, out_column=2,
            weight=cos, bias=sin, positions=len(cos),
        )  # fmt: skip
        machine.ok(run([made], [x], ROWS, position=position))
        part = before[:, 2:-3].astype(np.float64).reshape(ROWS, heads, head_dim)
        expected = part.copy()
        a, b = (
            (slice(0, half), slice(half, rotary)) if kind == 0 else (slice(0, rotary, 2), slice(1, rotary, 2))
        )
        c, s = (table[position][:, None].astype(np.float64) for table in (cos, sin))
        expected[..., a] = part[..., a] * c - part[..., b] * s
        expected[..., b] = part[..., b] * c + part[..., a] * s
        size = np.zeros_like(part)
        size[..., a] = size[..., b] = np.abs(part[..., a]) + np.abs(part[..., b])
        _close(x[:, 2:-3].reshape(part.shape), expected, 2 * EPS * size + 1e-30, (head_dim, rotary))
        assert same(x[:, :2], before[:, :2]) and same(x[:, -3:], before[:, -3:])


def _gelu_erf(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTS = {
    structs.RELU: lambda x: np.maximum(x, 0),
    structs.GELU_TANH: _gelu_tanh,
    structs.GELU_ERF: _gelu_erf,
    structs.SILU: lambda x: x / (1 + np.exp(-x)),
    structs.QUICK_GELU: lambda x: x / (1 + np.exp(-1.702 * x)),
}


@pytest.mark.parametrize("kind", ACTS)
def test_activations(tier: str, kind: int) -> None:
    rng = np.random.default_rng(44)
    x = np.concatenate([np.linspace(-12, 12, 1000), rng.standard_normal(400), [0.0, -0.0, 1e-30, -1e-30]])
    x = np.resize(x.astype(np.float32), (4, 351))
    out = empty_buffer(4, 351)
    _apply(step(structs.ACT, kind=kind, out=1, width=351), x, out)
    with np.errstate(over="ignore"):
        expected = ACTS[kind](x.astype(np.float64))
    # the exponent's argument has an error of a few units that e^x multiplies by its size; where 1 + tanh or
    # 1 + erf cancels, the error is one of 1 times x
    _close(out, expected, EPS * (24 * (1 + np.abs(x)) * np.abs(expected) + 4 * np.abs(x)) + 1e-37, kind)
    gate = random_buffer(rng, 4, 360)
    gated = empty_buffer(4, 351)
    made = step(structs.ACT, kind=kind, flags=1, out=1, in2=2, in2_column=9, width=351)
    machine.ok(run([made], [x, gated, gate], 4))
    assert same(gated, out * gate[:, 9:])


@pytest.mark.parametrize("kind", ACTS)
def test_activations_at_their_ends(tier: str, kind: int) -> None:
    x = np.array([[np.inf, -np.inf, np.nan, 3e38, -3e38, 88, -88, 104, -104, 1e4, -1e4]], np.float32)
    out = empty_buffer(1, x.shape[1])
    machine.ok(run([step(structs.ACT, kind=kind, out=1, width=x.shape[1])], [x, out], 1))
    assert out[0, 0] == np.inf and out[0, 3] == np.float32(3e38) and out[0, 9] == 1e4
    assert np.isnan(out[0, 2])
    assert (np.abs(out[0, [4, 6, 8, 10]]) < 1e-30).all()


def test_sum_pick_and_cap(tier: str) -> None:
    rng = np.random.default_rng(45)
    a, b = random_buffer(rng, ROWS, 37), random_buffer(rng, ROWS, 40)
    out = empty_buffer(ROWS, 41)
    machine.ok(
        run([step(structs.SUM, out=2, in2=1, in2_column=3, out_column=4, width=37)], [a, b, out], ROWS)
    )
    assert same(out[:, 4:], a + b[:, 3:]) and np.isnan(out[:, :4]).all()

    picked = empty_buffer(ROWS, 37)
    steps = [step(structs.PICK, out=1, width=37), step(structs.SUM, in_=1, in2=1, out=1, width=37)]
    machine.ok(run(steps, [a, picked], ROWS, pick=[4, 1, 4]))
    assert same(picked[:3], a[[4, 1, 4]] + a[[4, 1, 4]]) and np.isnan(picked[3:]).all()

    x = random_buffer(rng, ROWS, 37, 40)
    wide = x.copy()
    machine.ok(run([step(structs.CAP, width=37, cap=30.0)], [x], ROWS))
    expected = 30 * np.tanh(wide.astype(np.float64) / 30)
    _close(x, expected, 12 * EPS * np.abs(expected) + 1e-30)
    machine.ok(run([step(structs.CAP, width=36, in_column=1, out_column=1, scale=0.25)], [wide], ROWS))
    assert same(wide[:, 1:] * 4, np.ascontiguousarray(wide[:, 1:] * 4))


@pytest.mark.parametrize("mode", [INT8, INT16, FLOAT])
def test_prepare_and_linear(tier: str, mode: int) -> None:
    rng = np.random.default_rng(46)
    w = random_panels(rng, 33, 200, 4, 32, "u8", width=64)
    m = machine.matrix(w)
    x = random_buffer(rng, ROWS, 203)
    bias = rng.standard_normal(33).astype(np.float32)
    modes = mode | FLOAT
    slot = machine.poisoned(machine.native.load().hgx_prepared_bytes(200, ROWS, modes), np.uint8)
    expected = numerics.multiply(w, numerics.prepare(w, x[:, 3:]), mode, bias)
    for threads in (1, 2, 3):
        for flags in (0, structs.ADD):
            out = random_buffer(rng, ROWS, 40)
            before = out.copy()
            steps = [
                step(structs.PREPARE, in_column=3, kind=modes, matrix=m),
                step(
                    structs.LINEAR,
                    out=1,
                    out_column=7,
                    kind=mode,
                    in2=modes,
                    matrix=m,
                    bias=bias,
                    flags=flags,
                ),
            ]
            with machine.using(threads=threads):
                machine.ok(run(steps, [x, out], ROWS, prepared=[slot]))
            assert same(out[:, 7:], before[:, 7:] + expected if flags else expected)
            assert same(out[:, :7], before[:, :7])


def test_cache_holds_rounded_keys_and_values(tier: str) -> None:
    rng = np.random.default_rng(47)
    for dtype in ("f32", "f16", "bf16"):
        for head_dim in (1, 16, 20, 33):
            cache = Cache(2, 3, 2, 20, head_dim, dtype)
            x = random_buffer(rng, 4, 4 * head_dim + 1)
            made = step(
                structs.CACHE, in_=0, in_column=1, in2=0, in2_column=1 + 2 * head_dim, kv_heads=2,
                heads=2, head_dim=head_dim, layer=1,
            )  # fmt: skip
            sequence, position = [0, 2, 2, 2], [0, 14, 15, 16]
            machine.ok(run([made], [x], 4, sequence=sequence, position=position, cache=cache))
            keys, values = (
                x[:, at : at + 2 * head_dim].reshape(4, 2, head_dim) for at in (1, 1 + 2 * head_dim)
            )
            for row, (s, p) in enumerate(zip(sequence, position, strict=True)):
                assert same(cache.keys[1][s, :, p // 16, :, p % 16], numerics.store(keys[row], dtype))
                assert same(cache.values[1][s, :, p], numerics.store(values[row], dtype))
            written = 4 * 2 * head_dim * cache.values[1].itemsize
            for part in (cache.keys[1], cache.values[1]):
                assert (part.view(np.uint8) == 0xFF).sum() >= part.nbytes - written
            assert (cache.keys[0].view(np.uint8) == 0xFF).all()
