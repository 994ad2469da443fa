"""Reading JSON that a person may have edited: exact keys, exact types, errors that name the place.

Numbers that are not whole are decimal strings, in the shortest form that gives the same number back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeAlias

from blake3 import blake3

from higgsx.errors import UsageError

Json: TypeAlias = None | bool | int | str | list["Json"] | dict[str, "Json"]

_DECIMAL = re.compile(r"[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,4})?", re.ASCII)
_LONGEST_INTEGER = 20
_DEEPEST = 16


def canonical(data: object) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, ASCII."""
    spelled = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return spelled.encode()


def digest(data: object) -> str:
    """BLAKE3 of the canonical spelling, 64 hexadecimal digits."""
    return blake3(canonical(data)).hexdigest()


def parse(text: str, where: str) -> Json:
    """JSON without floats, NaN or duplicate keys; UsageError says what is wrong."""

    def refuse(number: str) -> NoReturn:
        raise UsageError("not a whole number", where=where, got=number[:40], expected="decimals as strings")

    def integer(number: str) -> int:
        if len(number) > _LONGEST_INTEGER:
            refuse(number)
        return int(number)

    def unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        found: dict[str, Json] = {}
        for key, value in pairs:
            if key in found:
                raise UsageError("the same key twice", where=where, got=repr(key))
            found[key] = value
        return found

    try:
        return json.loads(
            text, object_pairs_hook=unique, parse_float=refuse, parse_int=integer, parse_constant=refuse
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError("not JSON", where=where, got=f"{error.msg} at {place}") from None
    except RecursionError:
        raise UsageError("nested too deep", where=where) from None


def fields(data: object, where: str, names: Iterable[str]) -> Mapping[str, object]:
    """`data`, if it is an object with exactly these keys."""
    if not isinstance(data, Mapping):
        raise UsageError("not an object", where=where, got=_short(data))
    required = list(names)
    for key in data:
        if key not in required:
            raise UsageError("unknown key", where=where, got=_short(key), expected=", ".join(required))
    missing = [name for name in required if name not in data]
    if missing:
        raise UsageError("key is missing", where=where, expected=", ".join(missing))
    return data


def text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError("not a text", where=where, got=_short(value))
    return value


def whole(value: object, where: str) -> int:
    """A number from 0; true and false are none."""
    if type(value) is not int or value < 0:
        raise UsageError("not a whole number", where=where, got=_short(value), expected="0 or more")
    return value


def flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError("neither true nor false", where=where, got=_short(value))
    return value


def items(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise UsageError("not a list", where=where, got=_short(value))
    return value


def texts(value: object, where: str) -> tuple[str, ...]:
    return tuple(text(item, where) for item in items(value, where))


def decimal(value: object, where: str) -> float:
    """A decimal string such as "0.0125" or "3e-07"."""
    if not isinstance(value, str) or _DECIMAL.fullmatch(value) is None or math.isinf(float(value)):
        raise UsageError("not a decimal string", where=where, got=_short(value), expected='such as "0.0125"')
    return float(value)


def check_opaque(value: object, where: str, depth: int = 0) -> None:
    """Refuse what JSON cannot hold, floats, and nesting without end."""
    if depth > _DEEPEST:
        raise UsageError("nested too deep", where=where)
    if isinstance(value, dict):
        for key, item in value.items():
            text(key, where)
            check_opaque(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            check_opaque(item, where, depth + 1)
    elif value is not None and not isinstance(value, (bool, int, str)):
        raise UsageError("not allowed in parameters", where=where, got=_short(value))


def _short(value: object) -> str:
    return repr(value)[:80]
