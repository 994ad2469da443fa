"""Sizes as people write them. `MB` is 10^6 bytes, `MiB` is 2^20 bytes."""

from __future__ import annotations

import re

from higgsx.errors import UsageError

_UNITS = {"B": 1}
for _power, _letter in enumerate("KMGT", start=1):
    _UNITS[f"{_letter}B"] = 1000**_power
    _UNITS[f"{_letter}IB"] = 1024**_power

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def parse_size(text: str) -> int:
    """`"800MB"` → 800000000. A unit is required; case does not matter."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in _UNITS:
        expected = "a number and B, KB, KiB, MB, MiB, GB, GiB, TB or TiB"
        raise UsageError("not a size", got=repr(text), expected=expected)
    whole, _, fraction = match[1].partition(".")
    scale = _UNITS[match[2].upper()]
    return (int(whole + fraction) * scale) // 10 ** len(fraction)


def format_bytes(count: int) -> str:
    """Decimal units, three significant figures: 812000000 → `"812 MB"`."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    raise AssertionError("unreachable")


def round_up(count: int, step: int) -> int:
    return -(-count // step) * step
