"""Programs for `hgx_run` over NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import machine
import numpy as np
from machine import NUMPY, Place, as_is

from higgsx.kernels import structs
from higgsx.kernels.structs import State, Step


@dataclass
class Cache:
    """Keys and values of `layers`, poisoned, in `dtype`. Memory is for a multiple of 16 positions."""

    layers: int
    sequences: int
    kv_heads: int
    context: int
    head_dim: int
    dtype: str = "f32"
    place: Place = as_is
    keys: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        room = -(-self.context // 16) * 16
        for _ in range(self.layers):
            shape = (self.sequences, self.kv_heads, room // 16, self.head_dim, 16)
            self.keys.append(self.place(machine.poisoned(shape, NUMPY[self.dtype])))
            shape = (self.sequences, self.kv_heads, room, self.head_dim)
            self.values.append(self.place(machine.poisoned(shape, NUMPY[self.dtype])))


def step(op: int, **fields: Any) -> Step:
    made = Step(op=op, groups=1)
    for name, value in fields.items():
        if isinstance(value, structs.Matrix):
            made.matrix = ctypes.pointer(value)
        elif isinstance(value, np.ndarray):
            setattr(made, name, value.ctypes.data)
        else:
            setattr(made, name, value)
    made.keep = tuple(fields.values())
    return made


def run(
    steps: Sequence[Step],
    buffers: Sequence[np.ndarray],
    tokens: int,
    *,
    ids: Sequence[int] | None = None,
    sequence: Sequence[int] | None = None,
    position: Sequence[int] | None = None,
    pick: Sequence[int] = (),
    cache: Cache | None = None,
    prepared: Sequence[np.ndarray] = (),
    place: Place = as_is,
    change: dict[str, Any] | None = None,
) -> int:
    """The status. Buffers are float32 `[rows, stride]`; `change` are fields of the state to set otherwise."""
    rows = len(buffers[0])
    cache = cache or Cache(0, 1, 1, 64, 1)
    lists: dict[str, tuple[list[int], Any]] = {
        "buffer": ([buffer.ctypes.data for buffer in buffers], ctypes.c_void_p),
        "stride": ([buffer.shape[1] for buffer in buffers], ctypes.c_int64),
        "prepared": ([slot.ctypes.data for slot in prepared], ctypes.c_void_p),
        "prepared_bytes": ([slot.nbytes for slot in prepared], ctypes.c_int64),
        "keys": ([part.ctypes.data for part in cache.keys], ctypes.c_void_p),
        "values": ([part.ctypes.data for part in cache.values], ctypes.c_void_p),
        "cache_bytes": ([part.nbytes for part in cache.values], ctypes.c_int64),
    }
    state = State(
        rows=rows, buffers=len(buffers), slots=len(prepared), layers=cache.layers,
        cache_dtype=machine.DTYPES[cache.dtype], sequences=cache.sequences, context=cache.context,
    )  # fmt: skip
    kept = []
    for name, (values, kind) in lists.items():
        array = (kind * max(1, len(values)))(*values)
        kept.append(array)
        setattr(state, name, ctypes.addressof(array))
    for name, value in (change or {}).items():
        setattr(state, name, value)
    numbers = [
        place(np.array(part, np.int32))
        for part in (
            [0] * tokens if ids is None else ids,
            [0] * tokens if sequence is None else sequence,
            range(tokens) if position is None else position,
            pick,
        )
    ]
    program = (Step * len(steps))(*steps)
    library = machine.native.load()
    status: int = library.hgx_run(
        ctypes.addressof(program), len(steps), ctypes.addressof(state), tokens,
        *(part.ctypes.data for part in numbers), len(pick),
    )  # fmt: skip
    return status


def random_buffer(rng: np.random.Generator, rows: int, stride: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal((rows, stride)) * scale).astype(np.float32)


def empty_buffer(rows: int, stride: int) -> np.ndarray:
    return machine.poisoned((rows, stride), np.float32)
