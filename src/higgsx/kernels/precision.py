"""How exactly products with compressed weights are computed.

int8   activations are rounded to 8 bits per token and unit of 128 inputs; weights of 6 bits and more get a
       second pass over what the rounding left (16 bits in effect)
fast   one pass of 8 bits for every code, from 6 bits on it adds more error than the code itself has; so are
       queries and keys of our attention
float  activations stay as they are; slower

HIGGSX_PRECISION is read once, at the first product.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from higgsx.errors import UsageError
from higgsx.kernels.structs import FLOAT, INT8, INT16

VARIABLE = "HIGGSX_PRECISION"
NAMES = ("int8", "fast", "float")
_TWO_PASSES = 6
"""Bits of a weight from which one pass would add more error than the weight's own rounding."""

_wanted: ContextVar[str | None] = ContextVar("precision", default=None)


def named(name: str, where: str = "precision") -> str:
    if name not in NAMES:
        raise UsageError("no such precision", where=where, got=name, expected=", ".join(NAMES))
    return name


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Every product inside the block is computed so, whatever HIGGSX_PRECISION says."""
    token = _wanted.set(named(name))
    try:
        yield
    finally:
        _wanted.reset(token)


def current() -> str:
    """What the block around says, else HIGGSX_PRECISION, else int8; UsageError for another word."""
    return _wanted.get() or _default()


@lru_cache(maxsize=1)
def _default() -> str:
    return named(os.environ.get(VARIABLE) or NAMES[0], VARIABLE)


def mode_of(bits: int, name: str) -> int:
    """The mode of `csrc/higgsx.h` for weights of so many bits."""
    if name == "float":
        return FLOAT
    return INT16 if bits >= _TWO_PASSES and name != "fast" else INT8
