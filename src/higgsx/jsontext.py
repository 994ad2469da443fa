"""JSON without its traps, for what comes from anywhere."""

from __future__ import annotations

import json
import math
import re

from higgsx.errors import HiggsxError, SourceError

MAX_DEPTH = 64
"""Nesting of ordinary JSON."""


def parse_json(
    text: str,
    *,
    where: object = None,
    error: type[HiggsxError] = SourceError,
    floats: bool = True,
    depth: int = MAX_DEPTH,
    largest: int = (1 << 64) - 1,
) -> object:
    """JSON without its traps: no duplicate keys, no NaN or infinity, bounded depth and whole numbers.

    floats   whether numbers with a fraction or an exponent may occur
    largest  bound of whole numbers, either sign
    Raises `error` with code DUP, JSON or UTF8 (a lone surrogate).
    """

    def refuse(what: str, got: object = None, code: str = "JSON") -> HiggsxError:
        return error(what, where=where, got=None if got is None else str(got)[:80], code=code)

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            names = [name for name, _ in items]
            raise refuse("a key stands twice", next(name for name in names if names.count(name) > 1), "DUP")
        return found

    def whole(digits: str) -> int:
        # the length first: reading very long numbers is slow
        if len(digits) > 24 or not -largest <= int(digits) <= largest:
            raise refuse("number is too large", digits)
        return int(digits)

    def fraction(digits: str) -> float:
        if not floats or not math.isfinite(float(digits)):
            raise refuse("number is not finite" if floats else "number is no whole number", digits)
        return float(digits)

    try:
        if _deeper_than(text, depth):
            raise refuse(f"brackets do not match or nest deeper than {depth}")
        value = json.loads(
            text, object_pairs_hook=pairs, parse_constant=fraction, parse_int=whole, parse_float=fraction
        )
    except json.JSONDecodeError as problem:
        raise refuse("is no valid JSON", f"{problem.msg} at character {problem.pos}") from None
    except RecursionError:
        raise refuse("nested too deep") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise refuse("half a character", code="UTF8") from None
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))


def _deeper_than(text: str, depth: int) -> bool:
    """Counted before parsing and without recursion: the innermost brackets are removed `depth` times."""
    # a run of backslashes begins with an escape, so pairs of them fall away without moving the others
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    brackets = outside.encode("utf-8", "replace").translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(depth):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
