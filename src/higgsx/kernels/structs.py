"""The structures and constants of `csrc/higgsx.h` for ctypes, field by field. Needs no torch."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int8, c_int32, c_int64, c_void_p

ABI = 1

OK, BAD_ARGUMENT, BAD_MATRIX, BAD_SIZE, BAD_INDEX, NO_TIER, NO_MEMORY = range(7)
F32, F16, BF16 = range(3)
DENSE, PANELS = range(2)
SCALE_ROW, SCALE_U8, SCALE_F16 = range(3)
ZERO_NONE, ZERO_U8, ZERO_F16, ZERO_MIN = range(4)
INT8, INT16, FLOAT = 1, 2, 4
ADD = 1

EMBED, NORM, PREPARE, LINEAR, ROPE, CACHE, ATTEND, ACT, SUM, PICK, CAP = range(1, 12)
RELU, GELU_TANH, GELU_ERF, SILU, QUICK_GELU = range(5)


class Matrix(ctypes.Structure):
    """`hgx_matrix`. `keep` holds what its pointers point to."""

    _fields_ = [
        ("kind", c_int32),
        ("dtype", c_int32),
        ("bits", c_int32),
        ("block", c_int32),
        ("scale", c_int32),
        ("zero", c_int32),
        ("centre", c_int32),
        ("table", c_int32),
        ("exponent", c_int32),
        ("width", c_int32),
        ("transposed", c_int32),
        ("reserved", c_int32),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("segment", c_int64),
        ("data", c_void_p),
        ("rows", c_void_p),
        ("multiplier", c_void_p),
        ("data_bytes", c_int64),
        ("rows_bytes", c_int64),
        ("entries", c_int8 * 32),
    ]
    keep: object


class Strides(ctypes.Structure):
    """`hgx_strides`, in elements."""

    _fields_ = [("batch", c_int64), ("head", c_int64), ("row", c_int64)]


class Step(ctypes.Structure):
    """`hgx_step`."""

    _fields_ = [
        ("op", c_int32),
        ("kind", c_int32),
        ("flags", c_int32),
        ("in_", c_int32),
        ("in2", c_int32),
        ("out", c_int32),
        ("slot", c_int32),
        ("layer", c_int32),
        ("in_column", c_int64),
        ("in2_column", c_int64),
        ("out_column", c_int64),
        ("width", c_int64),
        ("groups", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_dim", c_int32),
        ("rotary", c_int32),
        ("window", c_int32),
        ("scale", c_float),
        ("eps", c_float),
        ("offset", c_float),
        ("cap", c_float),
        ("matrix", POINTER(Matrix)),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("positions", c_int64),
    ]


class State(ctypes.Structure):
    """`hgx_state`. The pointers are addresses of arrays that the caller keeps."""

    _fields_ = [
        ("rows", c_int64),
        ("buffers", c_int32),
        ("slots", c_int32),
        ("layers", c_int32),
        ("cache_dtype", c_int32),
        ("buffer", c_void_p),
        ("stride", c_void_p),
        ("prepared", c_void_p),
        ("prepared_bytes", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("cache_bytes", c_void_p),
        ("sequences", c_int64),
        ("context", c_int64),
    ]


_INT, _LONG, _AT, _NAME = ctypes.c_int, c_int64, c_void_p, ctypes.c_char_p

PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "hgx_abi": (_INT, ()),
    "hgx_message": (_NAME, (_INT,)),
    "hgx_tier_name": (_NAME, (_INT,)),
    "hgx_tier_runs": (_INT, (_NAME,)),
    "hgx_set_tier": (_INT, (_NAME,)),
    "hgx_tier": (_NAME, ()),
    "hgx_set_threads": (_INT, (_INT,)),
    "hgx_threads": (_INT, ()),
    "hgx_borrow_threads": (_INT, (_AT, _AT, _AT)),
    "hgx_check": (_INT, (_AT,)),
    "hgx_prepared_bytes": (_LONG, (_LONG, _LONG, _INT)),
    "hgx_prepare": (_INT, (_AT, _LONG, _AT, _INT, _LONG, _INT, _AT, _LONG)),
    "hgx_multiply": (
        _INT,
        (_AT, _LONG, _AT, _LONG, _INT, _INT, _AT, _AT, _INT, _LONG, _INT),
    ),
    "hgx_linear": (
        _INT,
        (_AT, _LONG, _AT, _INT, _LONG, _INT, _AT, _AT, _INT, _LONG, _AT, _LONG),
    ),
    "hgx_decode": (_INT, (_AT, _LONG, _LONG, _AT, _INT, _LONG)),
    "hgx_lookup": (_INT, (_AT, _AT, _LONG, _AT, _INT, _LONG)),
    "hgx_attention": (
        _INT,
        (*(_LONG,) * 6, *(_AT,) * 4, _INT, *(_AT,) * 4, c_float, _INT, _INT),
    ),
    "hgx_run": (_INT, (_AT, _LONG, _AT, _LONG, _AT, _AT, _AT, _AT, _LONG)),
    "hgx_probe_read": (ctypes.c_uint64, (_AT, _LONG)),
    "hgx_probe_multiply": (_LONG, (_LONG,)),
}
"""Result and arguments of every function. Pointers are plain addresses: numbers, or None."""
