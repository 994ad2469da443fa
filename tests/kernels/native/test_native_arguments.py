"""Every bad argument gives a status and nothing is written."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import pytest
from guarded import in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from higgsx.kernels import structs
from higgsx.kernels.structs import Matrix
from numerics import FLOAT, INT8, INT16
from payloads import Panels, random_panels

BIG = (1 << 63) - 1


def _matrix(**change: Any) -> Matrix:
    made = machine.matrix(_panels())
    for name, value in change.items():
        setattr(made, name, value)
    return made


def _panels() -> Panels:
    return random_panels(np.random.default_rng(60), 20, 150, 4, 32, "u8", "none", width=32)


BAD_MATRICES: list[dict[str, Any]] = [
    {"kind": 2}, {"kind": -1}, {"bits": 7}, {"bits": 1}, {"bits": 0}, {"bits": -4}, {"bits": 9},
    {"block": 16},
    {"block": 256}, {"block": -32}, {"scale": 0}, {"scale": 3}, {"scale": -1}, {"block": 0}, {"zero": 4},
    {"zero": -1}, {"centre": -1}, {"centre": 513}, {"centre": 33}, {"table": 2}, {"table": -1}, {"table": 1},
    {"exponent": 65}, {"exponent": -65}, {"width": 1}, {"width": 3}, {"width": 2048}, {"width": -2},
    {"outputs": 0}, {"outputs": -1}, {"outputs": BIG}, {"outputs": 33}, {"inputs": 0}, {"inputs": -BIG},
    {"inputs": BIG}, {"inputs": 161}, {"segment": -1}, {"data": None}, {"rows": None}, {"data_bytes": -1},
    {"rows_bytes": 63}, {"data_bytes": 0}, {"reserved": 1}, {"zero": 1, "centre": 15},
    {"table": 1, "zero": 1},
    {"outputs": 1 << 62, "inputs": 1 << 62}, {"outputs": (1 << 59) + 1}, {"transposed": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD_MATRICES, ids=str)
def test_a_bad_matrix_is_refused_by_all(change: dict[str, Any]) -> None:
    m = _matrix(**change)
    status = machine.call("hgx_check", m)
    assert status in (structs.BAD_MATRIX, structs.BAD_SIZE)
    x, y = np.ones((2, 150), np.float32), machine.poisoned((2, 20), np.float32)
    size = machine.native.load().hgx_prepared_bytes(150, 2, INT8)
    scratch, out = machine.poisoned(size, np.uint8), machine.poisoned((1, 150), np.float32)
    ids = np.zeros(1, np.int64)
    calls = (
        ("hgx_linear", m, 2, x, 0, 150, INT8, None, y, 0, 20, scratch, size),
        ("hgx_multiply", m, 2, scratch, size, INT8, INT8, None, y, 0, 20, 0),
        ("hgx_decode", m, 0, 1, out, 0, 150),
        ("hgx_lookup", m, ids, 1, out, 0, 150),
    )
    for call in calls:
        assert machine.call(*call) == status, call[0]
    for array in (y, scratch, out):
        assert (array.view(np.uint8) == 0xFF).all()


def test_bad_calls() -> None:
    m = _matrix()
    x, y = np.ones((2, 150), np.float32), machine.poisoned((2, 20), np.float32)
    size = machine.native.load().hgx_prepared_bytes(150, 2, INT8)
    prepared = machine.poisoned(size, np.uint8)
    out = machine.poisoned((2, 150), np.float32)
    high, low = np.array([0, 20]), np.array([0, -1])
    good: dict[str, tuple[object, ...]] = {
        "hgx_prepare": (m, 2, x, 0, 150, INT8, prepared, size),
        "hgx_multiply": (m, 2, prepared, size, INT8, INT8, None, y, 0, 20, 0),
        "hgx_linear": (m, 2, x, 0, 150, INT8, None, y, 0, 20, prepared, size),
        "hgx_decode": (m, 0, 2, out, 0, 150),
        "hgx_lookup": (m, high, 2, out, 0, 150),
    }
    bad: dict[str, list[tuple[int, object]]] = {
        "hgx_prepare": [
            (0, None), (1, -1), (1, BIG), (2, None), (3, 3), (3, -1), (4, 149), (4, -150), (4, BIG), (5, 0),
            (5, 8), (5, -1), (6, None), (7, size - 1), (7, -1), (7, 0), (1, 3),
        ],
        "hgx_multiply": [
            (0, None), (1, -1), (1, BIG), (1, 3), (2, None), (3, size - 1), (3, -1), (4, 0), (4, INT16),
            (4, 8), (5, 0), (5, 3), (5, FLOAT), (5, INT16), (7, None), (8, 3), (8, -1), (9, 19), (9, BIG),
            (10, 2), (10, -1),
        ],
        "hgx_linear": [
            (0, None), (1, -1), (1, BIG), (1, 3), (2, None), (3, 5), (4, 149), (4, BIG), (5, 0), (5, 5),
            (5, 8), (7, None), (8, 4), (9, 19), (9, BIG), (10, None), (11, size - 1), (11, -5),
        ],
        "hgx_decode": [
            (0, None), (1, -1), (1, 19), (1, BIG), (2, -1), (2, 21), (2, BIG), (3, None), (4, 3), (5, 149),
            (5, BIG),
        ],
        "hgx_lookup": [
            (0, None), (1, None), (1, low), (1, high), (2, -1), (2, BIG), (3, None), (4, -1), (5, 149),
            (5, BIG),
        ],
    }  # fmt: skip
    for name, changes in bad.items():
        for index, value in changes:
            arguments = list(good[name])
            arguments[index] = value
            if name == "hgx_lookup" and index != 1:
                arguments[1] = np.zeros(2, np.int64)
            status = machine.call(name, *arguments)
            assert status != structs.OK, (name, index, value)
            for array in (y, out, prepared):
                assert (array.view(np.uint8) == 0xFF).all(), (name, index, value)


def test_indices_have_a_status_of_their_own() -> None:
    m, out = _matrix(), machine.poisoned((3, 150), np.float32)
    for ids in ([0, 1, 20], [0, -1, 2], [1 << 40, 0, 0], [-BIG, 0, 0]):
        numbers = np.array(ids, np.int64)
        assert machine.call("hgx_lookup", m, numbers, 3, out, 0, 150) == structs.BAD_INDEX
    assert machine.call("hgx_decode", m, 18, 3, out, 0, 150) == structs.BAD_INDEX
    assert (out.view(np.uint8) == 0xFF).all()


def test_nothing_to_do_is_done() -> None:
    m, nothing = _matrix(), np.zeros(4096, np.uint8)
    assert machine.call("hgx_linear", m, 0, nothing, 0, 150, INT8, None, nothing, 0, 20, nothing, 4096) == 0
    assert machine.call("hgx_prepare", m, 0, nothing, 0, 150, INT8, nothing, 4096) == 0
    assert machine.call("hgx_decode", m, 20, 0, nothing, 0, 150) == 0
    assert machine.call("hgx_lookup", m, nothing, 0, nothing, 0, 150) == 0


def test_prepared_bytes() -> None:
    ask = machine.native.load().hgx_prepared_bytes
    assert ask(1, 1, INT8) == 128 + 64 + 64
    assert ask(129, 3, INT16) == 2 * 768 + 64 + 2 * 128
    assert ask(128, 2, FLOAT) == 1024 + 64
    assert ask(128, 2, 7) == ask(128, 2, INT16) + ask(128, 2, FLOAT)
    for inputs, tokens, modes in (
        (0, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, 0), (1, 1, 8), (1, 1, -1), (BIG, 1, 1),
        (1, BIG, 1), (1 << 40, 1 << 40, 7),
    ):  # fmt: skip
        assert ask(inputs, tokens, modes) < 0, (inputs, tokens, modes)


def test_tiers_and_threads() -> None:
    library = machine.native.load()
    names = []
    while (name := library.hgx_tier_name(len(names))) is not None:
        names.append(name.decode())
    assert names[0] == "scalar" and len(set(names)) == len(names)
    assert [name for name in names if library.hgx_tier_runs(name.encode())] == library.tiers()
    for name in ("", "sse", "scalar ", "SCALAR", "x" * 1000):
        with machine.using():
            before = library.tier
            assert library.hgx_set_tier(name.encode()) == structs.NO_TIER
            assert not library.hgx_tier_runs(name.encode())
            assert library.tier == before
    assert library.hgx_tier_name(-1) is None and library.hgx_tier_runs(None) == 0
    for tier in set(names) - set(library.tiers()):
        assert library.hgx_set_tier(tier.encode()) == structs.NO_TIER
    with machine.using():
        machine.ok(library.hgx_set_tier(None))
        assert library.tier == library.tiers()[-1]
        for threads in (0, -1, -(1 << 31), 1 << 30):
            before_threads = library.threads
            assert library.hgx_set_threads(threads) == structs.BAD_ARGUMENT
            assert library.threads == before_threads
    for status in (-1, 0, 3, 99):
        assert library.hgx_message(status)
    half = ctypes.cast(library.hgx_abi, ctypes.c_void_p).value
    assert library.hgx_borrow_threads(half, None, None) == structs.BAD_ARGUMENT
    assert library.hgx_borrow_threads(None, None, None) == 0


@settings(max_examples=300, deadline=None)
@given(
    raw=st.binary(min_size=ctypes.sizeof(Matrix), max_size=ctypes.sizeof(Matrix)),
    near=st.booleans(),
    data=st.data(),
)
def test_a_matrix_of_any_bytes_is_judged_without_reading_arrays(
    raw: bytes, near: bool, data: st.DataObject
) -> None:
    """Its pointers lead nowhere. Whoever accepts it has seen arrays that are long enough."""
    m = Matrix.from_buffer_copy(raw)
    if near:
        m = Matrix.from_buffer_copy(bytes(_matrix()))
        name, kind = data.draw(
            st.sampled_from([field[:2] for field in Matrix._fields_ if field[1] != ctypes.c_int8 * 32])
        )
        top = (1 << (8 * ctypes.sizeof(kind) - 1)) - 1
        value = data.draw(st.one_of(st.integers(-2, 300), st.integers(-top, top)))
        setattr(m, name, value if kind is not ctypes.c_void_p else abs(value))
    if machine.call("hgx_check", m) == structs.OK and m.kind == structs.PANELS:
        assert m.data_bytes >= -(-m.outputs // 16) * (-(-m.inputs // 32) * 64 * m.bits)
    elif machine.call("hgx_check", m) == structs.OK:
        assert m.data_bytes >= m.outputs * m.inputs * (4 if m.dtype == structs.F32 else 2)


def test_attention_arguments() -> None:
    ones = np.ones((2, 4, 6, 8), np.float32)
    out = machine.poisoned((2, 4, 6, 8), np.float32)
    strides = structs.Strides(192, 48, 8)
    good: list[object] = [2, 4, 2, 6, 6, 8, ones, ones, ones, out, 0, *[strides] * 4, 1.0, 0, structs.FLOAT]
    bad = [
        (0, -1), (1, 0), (1, -4), (2, 0), (2, 3), (2, -2), (3, -1), (4, 0), (4, -1), (5, 0), (5, -8),
        (5, BIG), (6, None), (7, None), (8, None), (9, None), (10, 3), (10, -1), (11, None), (12, None),
        (13, None), (14, None), (0, BIG), (1, BIG), (4, BIG), (3, BIG), (16, 2),
        (17, 3), (17, 0), (17, structs.FLOAT | structs.INT16),
        (11, structs.Strides(BIG, 1, 1)),
    ]  # fmt: skip
    for index, value in bad:
        arguments = list(good)
        arguments[index] = value
        assert machine.call("hgx_attention", *arguments) != structs.OK, (index, value)
        assert (out.view(np.uint8) == 0xFF).all()
    assert machine.call("hgx_attention", *good[:3], 7, *good[4:-2], 1, structs.FLOAT) != structs.OK, (
        "a query that sees no key"
    )


def test_memory_that_is_not_there(tier: str) -> None:
    """With no address space left every call ends with a status."""
    import resource

    def body(say: Callable[[str], None]) -> None:
        rng = np.random.default_rng(61)
        w = random_panels(rng, 64, 4096, 4, 32, "u8", width=128)
        m, x = machine.matrix(w), np.ones((64, 4096), np.float32)
        y = machine.poisoned((64, 64), np.float32)
        size = machine.native.load().hgx_prepared_bytes(4096, 64, INT8)
        scratch = machine.poisoned(size, np.uint8)
        out = machine.poisoned((64, 4096), np.float32)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + 4096, used + 4096))
        for threads in (1, 4):
            machine.call("hgx_set_threads", threads)
            for name, arguments in (
                ("hgx_linear", (m, 64, x, 0, 4096, INT8, None, y, 0, 64, scratch, size)),
                ("hgx_decode", (m, 0, 64, out, 0, 4096)),
            ):
                say(name)
                assert machine.call(name, *arguments) in (structs.OK, structs.NO_MEMORY)

    in_child(body)
