"""What a person may ask for, checked once, printed whole into the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from higgsx.errors import UsageError
from higgsx.pipeline.palette import ALLOW, allowed
from higgsx.rounding.table import BY_NAME
from higgsx.units import parse_size

DEFAULT_BITS = "4.25"
POLICIES = ("free", "hybrid")


@dataclass(frozen=True)
class Options:
    """bits    average bits of a weight, as text so that nothing is rounded; None with `size`, or with policy
            `hybrid` for 4.25 bits over the weights that compete
    size    bytes of the finished file; None with `bits`
    policy  `free`: every weight competes; `hybrid`: what the model reads and says stays exact
    keep    patterns of tensor names that stay exact (shell wildcards)
    allow   families or dtypes that may be used (`int8`, `gauss16`, `bf16` …); empty: the default palette
    method  the rounding
    """

    bits: str | None = None
    size: int | None = None
    policy: str = "free"
    keep: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    method: str = "rtn"

    def __post_init__(self) -> None:
        if self.bits is not None and self.size is not None:
            raise UsageError("give one budget", expected="either bits or size")
        if self.bits is not None:
            _bits(self.bits)
        elif self.size is None and self.policy == "free":
            object.__setattr__(self, "bits", DEFAULT_BITS)
        if self.size is not None and (type(self.size) is not int or self.size <= 0):
            raise UsageError("size is not a number of bytes", got=self.size)
        if self.policy not in POLICIES:
            raise UsageError("unknown policy", got=self.policy, expected=", ".join(POLICIES))
        if self.method not in BY_NAME:
            raise UsageError("unknown method", got=self.method, expected=", ".join(BY_NAME))
        allowed(self.allow)

    @classmethod
    def make(
        cls,
        bits: float | str | None = None,
        size: int | str | None = None,
        policy: str = "free",
        keep: tuple[str, ...] | list[str] = (),
        allow: tuple[str, ...] | list[str] = (),
        method: str = "rtn",
    ) -> Options:
        """From what people type: bits as a number, size as `"800MB"`. Neither: the default."""
        nbytes = parse_size(size) if isinstance(size, str) else size
        return cls(None if bits is None else _text(bits), nbytes, policy, tuple(keep), tuple(allow), method)

    def limit(self, exact_bytes: int, exact_weights: int, weights: int) -> Fraction:
        """The budget in bits over all `weights`, of which `exact_weights` stay exact in `exact_bytes`."""
        if self.bits is not None:
            return Fraction(self.bits)
        return (8 * exact_bytes + Fraction(DEFAULT_BITS) * (weights - exact_weights)) / weights

    def to_json(self) -> dict[str, object]:
        return {
            "bits": self.bits,
            "size": self.size,
            "policy": self.policy,
            "keep": list(self.keep),
            "allow": list(self.allow),
            "method": self.method,
        }


def _text(bits: float | str) -> str:
    """Shortest decimal form: 4.250 and "4.25" are the same request."""
    return format(_bits(str(bits)).normalize(), "f")


def _bits(text: str) -> Decimal:
    try:
        bits = Decimal(text)
    except InvalidOperation:
        bits = Decimal(-1)
    if not bits.is_finite() or not 0 < bits <= 64:
        raise UsageError("not a number of bits", got=text, expected="more than 0, at most 64")
    return bits


__all__ = ["ALLOW", "DEFAULT_BITS", "POLICIES", "Options"]
