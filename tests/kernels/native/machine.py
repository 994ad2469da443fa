"""The native functions called on NumPy arrays, whose results are poisoned before and looked at after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from higgsx.kernels import native, structs
from numerics import FLOAT, INT8, INT16
from payloads import Panels

REASON = native.available()
"""Why there is nothing to test, or None."""
DTYPES = {"f32": structs.F32, "f16": structs.F16, "bf16": structs.BF16}
NUMPY: dict[str, Any] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
SCALES = {"row": structs.SCALE_ROW, "u8": structs.SCALE_U8, "f16": structs.SCALE_F16}
ZEROS = {"none": structs.ZERO_NONE, "u8": structs.ZERO_U8, "f16": structs.ZERO_F16, "min": structs.ZERO_MIN}
Place = Callable[[np.ndarray], np.ndarray]


def tiers() -> list[str]:
    return ["none"] if REASON else native.load().tiers()


def call(name: str, *arguments: object) -> int:
    status: int = getattr(native.load(), name)(*(_plain(argument) for argument in arguments))
    return status


def _plain(argument: object) -> object:
    if isinstance(argument, np.ndarray):
        return argument.ctypes.data
    if isinstance(argument, structs.ctypes.Structure):
        return native.address_of(argument)
    return argument


@contextmanager
def using(tier: str | None = None, threads: int | None = None) -> Iterator[None]:
    """A tier and a number of threads, proven to be in use; what was set before comes back."""
    library = native.load()
    before = library.tier, library.threads
    try:
        if tier is not None:
            library.check(library.hgx_set_tier(tier.encode()), tier)
            assert library.tier == tier
        if threads is not None:
            library.check(library.hgx_set_threads(threads))
            assert library.threads == threads
        yield
    finally:
        library.check(library.hgx_set_tier(before[0].encode()))
        library.check(library.hgx_set_threads(before[1]))


def as_is(array: np.ndarray) -> np.ndarray:
    return array


def matrix(w: Panels, place: Place = as_is) -> structs.Matrix:
    """`hgx_matrix` of a compressed matrix; `place` moves the arrays."""
    made = structs.Matrix(
        kind=structs.PANELS, bits=w.bits, block=w.block, scale=SCALES[w.scale], zero=ZEROS[w.zero],
        centre=256 if w.table else w.centre, table=bool(w.table), exponent=w.exponent, width=w.width,
        segment=w.segment, outputs=w.outputs, inputs=w.inputs,
    )  # fmt: skip
    data, rows = place(w.data), None if w.rows is None else place(w.rows)
    multiplier = None if w.multiplier is None else place(w.multiplier)
    made.data, made.data_bytes = data.ctypes.data, data.nbytes
    if rows is not None:
        made.rows, made.rows_bytes = rows.ctypes.data, rows.nbytes
    if multiplier is not None:
        made.multiplier = multiplier.ctypes.data
    made.entries[: len(w.table)] = w.table
    made.keep = (data, rows, multiplier)
    return made


def dense_matrix(weight: np.ndarray, dtype: str, transposed: bool, place: Place = as_is) -> structs.Matrix:
    """`weight` as it is stored, in `dtype`."""
    stored = place(weight)
    outputs, inputs = stored.shape[::-1] if transposed else stored.shape
    made = structs.Matrix(
        kind=structs.DENSE, dtype=DTYPES[dtype], transposed=transposed, outputs=outputs, inputs=inputs,
        data=stored.ctypes.data, data_bytes=stored.nbytes,
    )  # fmt: skip
    made.keep = stored
    return made


def poisoned(shape: tuple[int, ...] | int, dtype: Any) -> np.ndarray:
    """All bits set: NaN in every floating type."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.full(count, 0xFF, np.uint8).view(dtype).reshape(shape)


def strided(x: np.ndarray, extra: int, place: Place = as_is) -> np.ndarray:
    """The rows of `x` with `extra` poisoned elements between them and none after the last. 1-D."""
    rows, columns = x.shape
    out = poisoned((rows, columns + extra), x.dtype)
    out[:, :columns] = x
    return place(out.reshape(-1)[: (rows - 1) * (columns + extra) + columns])


def unstrided(flat: np.ndarray, rows: int, columns: int, extra: int) -> np.ndarray:
    """The rows back; what lies between them must still be poison."""
    whole = poisoned((rows, columns + extra), flat.dtype)
    whole.reshape(-1)[: flat.size] = flat
    between = np.ascontiguousarray(whole[:, columns:]).view(np.uint8)
    assert (between == 0xFF).all(), "written between rows"
    return np.ascontiguousarray(whole[:, :columns])


def ok(status: int, where: object = "") -> None:
    assert status == 0, (native.load().hgx_message(status), where)


def prepare(
    m: structs.Matrix,
    x: np.ndarray,
    modes: int,
    dtype: str = "f32",
    extra: int = 0,
    place: Place = as_is,
) -> np.ndarray:
    """The bytes that `hgx_prepare` writes for x `[tokens, inputs]`."""
    size = native.load().hgx_prepared_bytes(x.shape[1], len(x), modes)
    assert size > 0
    out = place(poisoned(size, np.uint8))
    flat = strided(x, extra, place)
    ok(call("hgx_prepare", m, len(x), flat, DTYPES[dtype], x.shape[1] + extra, modes, out, size))
    return out


def sections(raw: np.ndarray, tokens: int, inputs: int, modes: int) -> dict[str, np.ndarray]:
    """The parts of what `hgx_prepare` wrote, by name."""
    units = -(-inputs // 128)
    layout: list[tuple[str, Any, int]] = []
    if modes & (INT8 | INT16):
        layout += [("q1", np.int8, units * 128), ("scale", np.float32, units), ("sum1", np.int32, 4 * units)]
    if modes & INT16:
        layout += [("q2", np.int8, units * 128), ("sum2", np.int32, 4 * units)]
    if modes & FLOAT:
        layout += [("x", np.float32, units * 128), ("sumx", np.float32, 4 * units)]
    found, at = {}, 0
    for name, dtype, width in layout:
        size = tokens * width * np.dtype(dtype).itemsize
        found[name] = raw[at : at + size].view(dtype).reshape(tokens, width)
        at += -(-size // 64) * 64
    assert at == raw.size
    return found


def multiply(
    m: structs.Matrix,
    prepared: np.ndarray,
    tokens: int,
    modes: int,
    mode: int,
    bias: np.ndarray | None = None,
    before: np.ndarray | None = None,
    dtype: str = "f32",
    extra: int = 0,
    place: Place = as_is,
) -> np.ndarray:
    """`[tokens, outputs]`; `before` is what y holds already, and then added to."""
    rows = poisoned((tokens, m.outputs), NUMPY[dtype]) if before is None else before
    y = strided(rows, extra, place)
    ok(
        call(
            "hgx_multiply", m, tokens, prepared, prepared.nbytes, modes, mode, bias, y, DTYPES[dtype],
            m.outputs + extra, structs.ADD if before is not None else 0,
        )
    )  # fmt: skip
    return unstrided(y, tokens, m.outputs, extra)


def linear(
    m: structs.Matrix,
    x: np.ndarray,
    mode: int,
    bias: np.ndarray | None = None,
    x_dtype: str = "f32",
    y_dtype: str = "f32",
    extra: tuple[int, int] = (0, 0),
    place: Place = as_is,
) -> np.ndarray:
    size = native.load().hgx_prepared_bytes(x.shape[1], len(x), mode)
    scratch = place(poisoned(size, np.uint8))
    flat = strided(x, extra[0], place)
    y = strided(poisoned((len(x), m.outputs), NUMPY[y_dtype]), extra[1], place)
    ok(
        call(
            "hgx_linear", m, len(x), flat, DTYPES[x_dtype], x.shape[1] + extra[0], mode, bias, y,
            DTYPES[y_dtype], m.outputs + extra[1], scratch, size,
        )
    )  # fmt: skip
    return unstrided(y, len(x), m.outputs, extra[1])


def decode(
    m: structs.Matrix, first: int, count: int, dtype: str = "f32", extra: int = 0, place: Place = as_is
) -> np.ndarray:
    out = strided(poisoned((count, m.inputs), NUMPY[dtype]), extra, place)
    ok(call("hgx_decode", m, first, count, out, DTYPES[dtype], m.inputs + extra))
    return unstrided(out, count, m.inputs, extra)


def lookup(
    m: structs.Matrix, ids: list[int], dtype: str = "f32", extra: int = 0, place: Place = as_is
) -> np.ndarray:
    out = strided(poisoned((len(ids), m.inputs), NUMPY[dtype]), extra, place)
    numbers = place(np.array(ids, np.int64))
    ok(call("hgx_lookup", m, numbers, len(ids), out, DTYPES[dtype], m.inputs + extra))
    return unstrided(out, len(ids), m.inputs, extra)
