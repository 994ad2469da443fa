"""The JSON of a .hgs file: one value, one text.

Sorted keys, no spaces, ASCII, whole numbers up to 2^53, no fractions, nesting up to 16. A text that is not
exactly what `canonical` writes is refused, so that two readers can never understand one file differently.
"""

from __future__ import annotations

import json

from higgsx.errors import FormatError
from higgsx.jsontext import parse_json

MAX_DEPTH = 16
LARGEST = 1 << 53


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse(text: str, where: str, *, largest: int = LARGEST) -> object:
    """The value of a canonical text; FormatError with code JSON, DUP or UTF8."""
    value = parse_json(text, where=where, error=FormatError, floats=False, depth=MAX_DEPTH, largest=largest)
    if canonical(value) != text:
        raise FormatError("JSON is not in its canonical form", where=where, code="JSON")
    return value


def check_free_json(value: object, where: str) -> None:
    """FormatError (JSON) unless a writer's value survives the way into a file and back."""
    try:
        text = canonical(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(
            "cannot be written as JSON", where=where, got=str(error)[:100], code="JSON"
        ) from None
    if parse(text, where) != value:
        raise FormatError(
            "changes when written as JSON", where=where, expected="keys are words, no tuples", code="JSON"
        )
