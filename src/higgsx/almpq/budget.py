"""What a plan may cost: bytes of the whole file, or average bits of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from higgsx.almpq import strict
from higgsx.errors import UsageError
from higgsx.units import format_bytes

_LONGEST_NUMBER = 40


@dataclass(frozen=True)
class Budget:
    """kind   "size": bytes of the whole file. "bits": payload bytes × 8 over the weights of counted groups
    limit  bytes, or bits per weight
    fixed  bytes of the file that are no group's: header, assets, damage record, tail
    """

    kind: Literal["size", "bits"]
    limit: Fraction
    fixed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("size", "bits"):
            raise UsageError("unknown kind of budget", got=repr(self.kind), expected="size or bits")
        if not isinstance(self.limit, (int, Fraction)) or isinstance(self.limit, bool) or self.limit <= 0:
            raise UsageError("not a budget", where=self.kind, got=self.limit, expected="a number above 0")
        limit = Fraction(self.limit)
        if self.kind == "size" and limit.denominator != 1:
            raise UsageError("not a whole number of bytes", where="size", got=limit)
        if len(_number(limit)) > _LONGEST_NUMBER:
            raise UsageError("too long a number", where=self.kind, got=limit, expected="such as 4.25 or 13/3")
        strict.whole(self.fixed, "budget, fixed")
        object.__setattr__(self, "limit", limit)

    @classmethod
    def of_size(cls, limit: int, fixed: int = 0) -> Budget:
        return cls("size", Fraction(limit), fixed)

    @classmethod
    def of_bits(cls, bits: int | float | str | Fraction, fixed: int = 0) -> Budget:
        """4.1 means the decimal 4.1, not the nearest binary fraction."""
        return cls("bits", bits if isinstance(bits, Fraction) else parse_number(str(bits), "bits"), fixed)

    def cost(self, counted: bool, nbytes: int, stored: int) -> int:
        """What a candidate takes from the budget, in bytes."""
        if self.kind == "size":
            return stored
        return nbytes if counted else 0

    def capacity(self, weights: int) -> int:
        """Bytes for all groups; `weights` of the counted ones. Negative if the fixed part is too large."""
        if self.kind == "size":
            return int(self.limit) - self.fixed
        return int(self.limit * weights / 8)

    def __str__(self) -> str:
        if self.kind == "size":
            return f"size {format_bytes(int(self.limit))}"
        return f"{_number(self.limit)} bits"

    def to_json(self) -> dict[str, strict.Json]:
        return {"kind": self.kind, "limit": _number(self.limit), "fixed": self.fixed}

    @classmethod
    def from_json(cls, data: object, where: str = "budget") -> Budget:
        taken = strict.fields(data, where, ("kind", "limit", "fixed"))
        return cls(
            strict.text(taken["kind"], f"{where}, kind"),  # type: ignore[arg-type]  # checked by the constructor
            parse_number(strict.text(taken["limit"], f"{where}, limit"), f"{where}, limit"),
            strict.whole(taken["fixed"], f"{where}, fixed"),
        )


def parse_number(text: str, where: str) -> Fraction:
    """ "4.25" or "13/3", exactly."""
    above, slash, below = text.partition("/")
    if (
        slash
        and text.isascii()
        and above.isdecimal()
        and below.isdecimal()
        and len(text) <= _LONGEST_NUMBER
        and int(below)
    ):
        return Fraction(int(above), int(below))
    if slash or len(text) > _LONGEST_NUMBER or not set(text) <= set("0123456789."):
        raise UsageError("not a number", where=where, got=repr(text)[:60], expected='such as "4.25"')
    strict.decimal(text, where)
    return Fraction(text)


def _number(value: Fraction) -> str:
    """Shortest exact spelling: a decimal where there is one with at most 18 places, else a fraction."""
    for places in range(19):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(scaled.numerator).rjust(places + 1, "0")
            return f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"{value.numerator}/{value.denominator}"
