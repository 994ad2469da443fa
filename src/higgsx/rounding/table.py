"""The roundings there are. A new one is one file and one line here."""

from __future__ import annotations

from higgsx.errors import UsageError
from higgsx.rounding.base import Rounding
from higgsx.rounding.hqq import hqq
from higgsx.rounding.rtn import rtn

ROUNDINGS: tuple[Rounding, ...] = (
    Rounding("rtn", portable=True, round=rtn),
    Rounding("hqq", portable=True, round=hqq),
)

BY_NAME: dict[str, Rounding] = {rounding.name: rounding for rounding in ROUNDINGS}


def rounding_of(name: str) -> Rounding:
    """UsageError where there is none of that name."""
    if name not in BY_NAME:
        raise UsageError("unknown rounding", got=repr(name), expected=", ".join(sorted(BY_NAME)))
    return BY_NAME[name]
