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
    max_kl  the loss that the smallest file is looked for at, as text; None with `bits` or `size`
    """

    bits: str | None = None
    size: int | None = None
    policy: str = "free"
    keep: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    method: str = "rtn"
    max_kl: str | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.bits, self.size, self.max_kl)) > 1:
            raise UsageError("give one budget", expected="either bits, size or max_kl")
        if self.bits is not None:
            _bits(self.bits)
        elif self.max_kl is not None:
            _loss(self.max_kl)
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
        max_kl: float | str | None = None,
    ) -> Options:
        """From what people type: bits as a number, size as `"800MB"`. Neither: the default."""
        nbytes = parse_size(size) if isinstance(size, str) else size
        text = None if bits is None else _text(bits)
        loss = None if max_kl is None else format(_loss(str(max_kl)).normalize(), "f")
        return cls(text, nbytes, policy, tuple(keep), tuple(allow), method, loss)

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
            **({} if self.max_kl is None else {"max_kl": self.max_kl}),
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


def _loss(text: str) -> Decimal:
    try:
        loss = Decimal(text)
    except InvalidOperation:
        loss = Decimal(-1)
    if not loss.is_finite() or not Decimal("1e-9") <= loss <= 1000:
        raise UsageError(
            "not a loss to stay below", where="max_kl", got=text, expected="nats per token, such as 0.02"
        )
    return loss


__all__ = ["ALLOW", "DEFAULT_BITS", "POLICIES", "Options"]
