"""Attention, in programs and over strided tensors, against binary64 within what binary32 allows."""

from __future__ import annotations

import machine
import numpy as np
import pytest
from programs import Cache, empty_buffer, random_buffer, run, step

import numerics
from higgsx.kernels import structs
from higgsx.kernels.structs import Strides
from numerics import same

EPS = 2.0**-24


def _attend(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    scale: float,
    cap: float = 0.0,
    mode: int = structs.FLOAT,
) -> tuple[np.ndarray, np.ndarray]:
    """One query over keys in binary64, and a bound on the error of a mode: binary32, or whole numbers of 16
    bits (queries and keys 8), a query, key or value with a scale of its own, weights with one for each chunk
    of 64 keys."""
    whole = mode != structs.FLOAT
    q, k, v = (part.astype(np.float64) for part in (q, k, v))
    scores = scale * (k @ q)
    # a sum of head_dim products in chains of some length, then scaled; e^x turns it into a relative error
    error = EPS * (len(q) + 8) * abs(scale) * (np.abs(k) @ np.abs(q)) + EPS * 8 * np.abs(scores)
    top = 127 if mode == structs.INT8 else min(8191, int(np.sqrt((2**31 - 1) / len(q))))
    steps = [np.abs(part).max(-1, keepdims=True) * (0.51 / top) for part in (q, k)]
    if whole:
        error = error + abs(scale) * (np.abs(k) @ steps[0].repeat(len(q)) + steps[1][:, 0] * np.abs(q).sum())
        error = error + abs(scale) * len(q) * float(steps[0][0]) * steps[1][:, 0]
    if cap:
        scores = cap * np.tanh(scores / cap)
        error = error + EPS * 16 * np.abs(scores)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    size = weights @ np.abs(v)
    # every weight is off by its score's error, by that of the largest, by e^x and by the sum over keys
    chain = EPS * (np.log2(len(k) + 1) + len(k) / 4 + 16)
    bound = weights @ (np.abs(v) * (error + error.max())[:, None]) + 2 * chain * size
    bound = bound + weights @ (np.abs(v) * error[:, None]) + size * (weights @ error) + 1e-30
    if mode == structs.INT8:
        bound = bound * np.exp(2 * error.max())  # e^x of an error that is not small
    if whole:
        scales = np.abs(v).max(-1) / 8191
        bound = 1.01 * bound + 0.51 * (weights @ scales)
        for begin in range(0, len(k), 64):
            part = slice(begin, begin + 64)
            step = (weights[part] * scales[part]).max() * (0.51 / 4095)
            bound = bound + step * (np.abs(v[part]) / np.maximum(scales[part, None], 1e-30)).sum(0)
    return weights @ v, bound


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_over_the_cache(tier: str, dtype: str) -> None:
    """Two sequences of unequal length in one call; then each token alone; several threads: equal bits."""
    rng = np.random.default_rng(50)
    for heads, kv_heads, head_dim, window, cap in (
        (1, 1, 1, 0, 0.0), (4, 2, 16, 0, 0.0), (6, 2, 33, 5, 0.0), (3, 3, 64, 0, 20.0), (8, 1, 80, 17, 0.0),
        (2, 1, 128, 1, 5.0), (5, 1, 20, 0, 0.0),
    ):  # fmt: skip
        lengths = (37, 18)
        sequence = [0] * lengths[0] + [1] * lengths[1]
        position = [*range(lengths[0]), *range(lengths[1])]
        tokens = len(sequence)
        width, keys = heads * head_dim, kv_heads * head_dim
        x = random_buffer(rng, tokens, width + 2 * keys, 1.5)
        scale = 0.7 / np.sqrt(head_dim)

        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
        steps = [
            step(structs.CACHE, in_column=width, in2=0, in2_column=width + keys, **shape),
            step(structs.ATTEND, out=1, out_column=1, scale=scale, window=window, cap=cap, **shape),
        ]
        out = empty_buffer(tokens, width + 1)
        cache = Cache(1, 2, kv_heads, 40, head_dim, dtype)
        machine.ok(run(steps, [x, out], tokens, sequence=sequence, position=position, cache=cache))
        k, v = (
            numerics.load(numerics.store(x[:, at : at + keys], dtype), dtype).reshape(
                tokens, kv_heads, head_dim
            )
            for at in (width, width + keys)
        )
        for row in range(tokens):
            first = sequence[row] * lengths[0]
            begin = max(0, position[row] + 1 - window) if window else 0
            seen = slice(first + begin, first + position[row] + 1)
            for head in range(heads):
                of = head // (heads // kv_heads)
                q = x[row, head * head_dim : (head + 1) * head_dim]
                y, bound = _attend(q, k[seen, of], v[seen, of], float(np.float32(scale)), cap)
                got = out[row, 1 + head * head_dim : 1 + (head + 1) * head_dim]
                assert (np.abs(got - y) <= bound).all(), (heads, kv_heads, head_dim, row, head)
        assert np.isnan(out[:, 0]).all()

        for threads in (1, 2, 3):
            with machine.using(threads=threads):
                again, fresh = empty_buffer(tokens, width + 1), Cache(1, 2, kv_heads, 40, head_dim, dtype)
                machine.ok(run(steps, [x, again], tokens, sequence=sequence, position=position, cache=fresh))
                assert same(again, out)
        fresh = Cache(1, 2, kv_heads, 40, head_dim, dtype)
        for row in range(tokens):
            one, alone = x[row : row + 1], empty_buffer(1, width + 1)
            where = {"sequence": [sequence[row]], "position": [position[row]]}
            machine.ok(run(steps, [one, alone], 1, cache=fresh, **where))
            assert same(alone[0], out[row]), (heads, kv_heads, head_dim, row)


def test_long_contexts_in_pieces(tier: str) -> None:
    """Keys are summed in sections; tokens alone, in blocks, and all at once agree to the bit."""
    rng = np.random.default_rng(51)
    tokens, head_dim = 1700, 16
    x = random_buffer(rng, tokens, 4 * head_dim)
    shape = {"heads": 2, "kv_heads": 1, "head_dim": head_dim}
    for window in (0, 600):
        steps = [
            step(structs.CACHE, in_column=32, in2=0, in2_column=48, **shape),
            step(structs.ATTEND, out=1, scale=0.25, window=window, **shape),
        ]
        out = empty_buffer(tokens, 32)
        machine.ok(run(steps, [x, out], tokens, cache=Cache(1, 1, 1, tokens, head_dim)))
        fresh = Cache(1, 1, 1, tokens, head_dim)
        begin = 0
        for number, size in enumerate((500, 1, 12, 300, 3, 1, 1, 280, 2, 1, 1, 1, 400, 1, 1, 3, 190, 1, 1)):
            part = empty_buffer(size, 32)
            where = list(range(begin, begin + size))
            with machine.using(threads=1 + number % 4):
                block = np.ascontiguousarray(x[begin : begin + size])
                machine.ok(run(steps, [block, part], size, position=where, cache=fresh))
            assert same(part, out[begin : begin + size]), (window, begin, size)
            begin += size
        assert begin == tokens
        for row in (0, 15, 511, 512, 1099, 1699):
            seen = slice(max(0, row + 1 - window) if window else 0, row + 1)
            for head in (0, 1):
                q = x[row, 16 * head : 16 * head + 16]
                y, bound = _attend(q, x[seen, 32:48], x[seen, 48:], 0.25)
                assert (np.abs(out[row, 16 * head : 16 * head + 16] - y) <= bound).all()


def _strides(array: np.ndarray) -> Strides:
    batch, head, row = (stride // array.itemsize for stride in array.strides[:3])
    return Strides(batch, head, row)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("mode", [structs.FLOAT, structs.INT16, structs.INT8])
def test_over_tensors(tier: str, dtype: str, causal: int, mode: int) -> None:
    rng = np.random.default_rng(52)
    for batch, heads, kv_heads, queries, keys, head_dim in (
        (1, 1, 1, 1, 1, 1), (2, 4, 2, 5, 9, 16), (1, 3, 3, 33, 33, 20), (3, 2, 1, 1, 70, 64),
        (1, 6, 2, 17, 600, 8),
    ):  # fmt: skip
        # as models have them: [batch, rows, heads, head_dim] seen as [batch, heads, rows, head_dim]
        def tensor(rows: int, count: int, batch: int = batch, head_dim: int = head_dim) -> np.ndarray:
            x = rng.standard_normal((batch, rows, count, head_dim)).astype(np.float32)
            return numerics.store(x, dtype).transpose(0, 2, 1, 3)

        q, k, v = tensor(queries, heads), tensor(keys, kv_heads), tensor(keys, kv_heads)
        results = []
        for threads in (1, 3):
            out = machine.poisoned((batch, heads, queries, head_dim), machine.NUMPY[dtype])
            with machine.using(threads=threads):
                machine.ok(
                    machine.call(
                        "hgx_attention", batch, heads, kv_heads, queries, keys, head_dim, q, k, v, out,
                        machine.DTYPES[dtype], *(_strides(part) for part in (q, k, v, out)), 0.3, causal,
                        mode,
                    )
                )  # fmt: skip
            results.append(out)
        assert same(results[0], results[1])
        step_of = {"f32": EPS, "f16": 2.0**-11, "bf16": 2.0**-8}[dtype]
        qs, ks, vs, outs = (
            numerics.load(np.ascontiguousarray(part), dtype) for part in (q, k, v, results[0])
        )
        for b in range(batch):
            for h in range(heads):
                for i in range(0, queries, 1 + queries // 5):
                    seen = slice(0, i + keys - queries + 1 if causal else keys)
                    of = h // (heads // kv_heads)
                    seen_by = qs[b, h, i], ks[b, of, seen], vs[b, of, seen]
                    y, bound = _attend(*seen_by, float(np.float32(0.3)), mode=mode)
                    error = np.abs(outs[b, h, i] - y)
                    assert (error <= bound + step_of * np.abs(y) + 1e-7 * (dtype == "f16")).all(), (b, h, i)


def _over(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: int, mode: int) -> np.ndarray:
    """`[heads, queries, head_dim]` of one batch in binary32."""
    out = machine.poisoned(q.shape, np.float32)
    strides = [_strides(part[None]) for part in (q, k, v, out)]
    sizes = 1, len(q), len(k), q.shape[1], k.shape[1], q.shape[2]
    machine.ok(machine.call("hgx_attention", *sizes, q, k, v, out, structs.F32, *strides, 0.3, causal, mode))
    return out


WHOLE = pytest.mark.parametrize("mode", [structs.INT16, structs.INT8])


@WHOLE
def test_whole_numbers_are_the_same_on_every_tier_and_for_every_company(tier: str, mode: int) -> None:
    """Bit for bit: all queries at once, each alone, and keys that are not seen, whatever they hold."""
    rng = np.random.default_rng(53)
    for heads, kv_heads, keys, head_dim in ((2, 1, 130, 64), (3, 3, 40, 17), (4, 2, 70, 80), (1, 1, 65, 128)):
        q, k, v = (
            np.exp(rng.standard_normal((count, keys, head_dim)) * 2).astype(np.float32)
            * rng.choice([-1, 1], (count, keys, head_dim)).astype(np.float32)
            for count in (heads, kv_heads, kv_heads)
        )
        v[:, 3] = 0
        k[:, 5] *= 1e-33
        for causal in (0, 1):
            out = _over(q, k, v, causal, mode)
            assert np.isfinite(out).all()
            with machine.using("scalar", 1):
                assert same(_over(q, k, v, causal, mode), out), (heads, keys, head_dim, causal)
        for row in range(0, keys, 7):
            seen = np.ascontiguousarray
            alone = _over(seen(q[:, row : row + 1]), seen(k[:, : row + 1]), seen(v[:, : row + 1]), 0, mode)
            assert same(alone[:, 0], out[:, row]), (heads, keys, head_dim, row)
        later = k.copy(), v.copy()
        for part in later:
            part[:, keys // 2 :] = np.nan
        assert same(_over(q, *later, 1, mode)[:, : keys // 2], out[:, : keys // 2])


@WHOLE
def test_whole_numbers_of_what_is_not_finite(tier: str, mode: int) -> None:
    """It reaches whoever sees it, and nobody else."""
    rng = np.random.default_rng(54)
    for where in range(3):
        for bad in (np.inf, -np.inf, np.nan):
            parts = [rng.standard_normal((1, 20, 16)).astype(np.float32) for _ in range(3)]
            clean = _over(*parts, 1, mode)
            parts[where][0, 7, 3] = bad
            out = _over(*parts, 1, mode)
            lost = np.isnan(out[0]).any(-1)
            assert lost.tolist() == (
                [row == 7 for row in range(20)] if where == 0 else [row >= 7 for row in range(20)]
            )
            assert same(out[0][~lost], clean[0][~lost])
