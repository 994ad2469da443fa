"""The codes that the planner may choose from, and the words of `--allow` that restrict it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from higgsx.codecs.base import Codec
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.errors import UsageError

BLOCKS = (32, 64, 128, 0)
DENSE = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
TABLES = ("gauss4", "gauss8", "gauss16", "gauss32", "nf4", "iq4")
ALLOW = (*(f"int{bits}" for bits in BITS), *TABLES, *DENSE)
DEFAULT = ("gauss4", "gauss8", "gauss16", "gauss32", "int6", "int8", "bf16")
"""What offers the least error at its bits: tables up to 5 bits, equal steps above, half of float32."""


def allowed(words: Sequence[str]) -> tuple[Codec, ...]:
    """Codecs for the words of `--allow`; no words: the default palette. The original's own dtype is always
    a candidate and needs no word. UsageError for an unknown word."""
    unknown = [word for word in words if word not in ALLOW]
    if unknown:
        raise UsageError("unknown code", got=", ".join(unknown), expected=", ".join(ALLOW))
    return _codecs(tuple(dict.fromkeys(words)) or DEFAULT)


@lru_cache(maxsize=64)
def _codecs(words: tuple[str, ...]) -> tuple[Codec, ...]:
    found: list[Codec] = []
    for word in words:
        if word in DENSE:
            found.append(Dense(DENSE[word]))
        elif word in TABLES:
            found += [Codebook.plain(word, block) for block in BLOCKS]
        else:
            found += [Uniform.symmetric(int(word.removeprefix("int")), block) for block in BLOCKS]
    return tuple(found)
