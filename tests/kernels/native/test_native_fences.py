"""No byte before or after any operand is touched: forbidden pages stand there, on both sides in turn."""

from __future__ import annotations

from collections.abc import Callable

import machine
import numpy as np
import pytest
from guarded import Fenced, in_child

import numerics
from higgsx.kernels import structs
from numerics import FLOAT, INT8, INT16, same
from payloads import FORMATS, random_panels

SIZES = ((1, 1), (15, 31), (16, 32), (17, 33), (31, 65), (2, 96), (33, 127), (48, 128), (5, 129), (20, 257))


@pytest.mark.parametrize("at", ["end", "start"])
def test_products_and_values(tier: str, at: str) -> None:
    def body(say: Callable[[str], None]) -> None:
        rng = np.random.default_rng(30)
        for number, (code, block, scale, zero) in enumerate(FORMATS):
            outputs, inputs = SIZES[number % len(SIZES)]
            tokens = (1, 2, 5, 8, 17)[number % 5]
            mode = (INT8, INT16, FLOAT)[number % 3]
            x_dtype, y_dtype = ("f32", "f16", "bf16")[number % 3], ("bf16", "f32", "f16")[number % 3]
            width = (0, 16, 32, 128)[number % 4]
            w = random_panels(
                rng, outputs, inputs, code, block, scale, zero, width=width, any_bytes=number % 2 == 0
            )
            say(f"{number}: {code} {block} {scale} {zero} {outputs}x{inputs}, {tokens} tokens")
            fence = Fenced(at)

            place, fixed = fence.place, fence.fixed
            x = numerics.store(rng.standard_normal((tokens, inputs)).astype(np.float32), x_dtype)
            bias = fixed(rng.standard_normal(outputs).astype(np.float32))
            m = machine.matrix(w, fixed)
            with machine.using(threads=1 + number % 3):
                raw = machine.prepare(m, x, mode, x_dtype, number % 2, place)
                p = numerics.prepare(w, numerics.load(x, x_dtype))
                y = machine.multiply(m, fixed(raw), tokens, mode, mode, bias, None, y_dtype, 0, place)
                assert same(y, numerics.multiply(w, p, mode, bias, None, y_dtype))
                y = machine.linear(m, x, mode, bias, x_dtype, y_dtype, (0, 0), place)
                assert same(y, numerics.multiply(w, p, mode, bias, None, y_dtype))
                values = numerics.store(numerics.decode(w), y_dtype)
                assert same(machine.decode(m, 0, outputs, y_dtype, 0, place), values)
                ids = [outputs - 1, 0, outputs // 2]
                assert same(machine.lookup(m, ids, y_dtype, 0, place), values[ids])

    in_child(body)


@pytest.mark.parametrize("at", ["end", "start"])
def test_dense_matrices(tier: str, at: str) -> None:
    def body(say: Callable[[str], None]) -> None:
        rng = np.random.default_rng(31)
        for number, (outputs, inputs) in enumerate(SIZES * 2):
            dtype, transposed = ("f32", "f16", "bf16")[number % 3], number >= len(SIZES)
            say(f"{(outputs, inputs, dtype, transposed)}")
            fence = Fenced(at)
            shape = (inputs, outputs) if transposed else (outputs, inputs)
            stored = numerics.store(rng.standard_normal(shape).astype(np.float32), dtype)
            x = rng.standard_normal((1 + number % 4, inputs)).astype(np.float32)
            m = machine.dense_matrix(stored, dtype, transposed, fence.fixed)
            expected = numerics.dense(numerics.load(stored, dtype), x, transposed, None)
            assert same(machine.linear(m, x, FLOAT, place=fence.place), expected)
            values = numerics.load(stored.T if transposed else stored, dtype)
            assert same(machine.decode(m, 0, outputs, "f16", 0, fence.place), numerics.store(values, "f16"))

    in_child(body)


@pytest.mark.parametrize("at", ["end", "start"])
def test_attention(tier: str, at: str) -> None:
    def body(say: Callable[[str], None]) -> None:
        rng = np.random.default_rng(32)
        for number, (heads, queries, keys, head_dim) in enumerate(
            ((1, 1, 1, 1), (2, 3, 17, 20), (2, 40, 40, 33), (4, 1, 530, 16), (2, 7, 65, 64), (6, 2, 9, 100))
        ):
            dtype, kv_heads = ("f32", "f16", "bf16")[number % 3], max(1, heads // 2)
            say(f"{heads}/{kv_heads} heads, {queries} of {keys}, {head_dim} {dtype}")
            fence = Fenced(at)

            def tensor(count: int, rows: int, width: int = head_dim, kind: str = dtype) -> np.ndarray:
                return numerics.store(rng.standard_normal((1, count, rows, width)).astype(np.float32), kind)

            inside = [tensor(heads, queries), tensor(kv_heads, keys), tensor(kv_heads, keys)]
            results = []
            for arrays in (inside, [fence.fixed(array) for array in inside]):
                out = fence.place(machine.poisoned(inside[0].shape, inside[0].dtype))
                strides = [structs.Strides(0, part.shape[2] * head_dim, head_dim) for part in (*arrays, out)]
                sizes = (1, heads, kv_heads, queries, keys, head_dim)
                machine.ok(
                    machine.call(
                        "hgx_attention",
                        *sizes,
                        *arrays,
                        out,
                        machine.DTYPES[dtype],
                        *strides,
                        0.3,
                        number % 2,
                        (structs.FLOAT, structs.INT16, structs.INT8)[number // 2],
                    )
                )
                results.append(out)
            assert same(*results) and not np.isnan(numerics.load(results[0], dtype)).any()

    in_child(body)
