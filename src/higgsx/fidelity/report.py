"""The damage record: what was measured, on what, in which arithmetic. To JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from higgsx.errors import FormatError
from higgsx.fidelity.figures import Bucket, Estimate, Figures, Spread

_DIGITS = 6  # significant ones, in JSON


@dataclass(frozen=True)
class Arithmetic:
    """The mode each model ran in, in words, such as "weights fp32, arithmetic fp32"."""

    original: str
    compressed: str
    floor: str | None = None


@dataclass(frozen=True)
class Damage:
    """Figures over all text, per domain (empty if there is one), and the noise floor if it was measured."""

    total: Figures
    arithmetic: Arithmetic
    text: str
    longest: int
    domains: Mapping[str, Figures] = field(default_factory=dict)
    floor: Figures | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Has at least `kl.mean`, `kl.p99`, `top1_agreement`, `perplexity.original`,
        `perplexity.compressed`. A figure that does not exist is null; numbers have six significant digits."""
        modes = {"original": self.arithmetic.original, "compressed": self.arithmetic.compressed}
        if self.arithmetic.floor is not None:
            modes["noise_floor"] = self.arithmetic.floor
        return {
            "measured": True,
            "text": self.text,
            "longest_window": self.longest,
            "arithmetic": modes,
            **_figures_to_json(self.total),
            "domains": {name: _figures_to_json(part) for name, part in self.domains.items()},
            "noise_floor": None if self.floor is None else _figures_to_json(self.floor),
        }


@dataclass(frozen=True)
class NotMeasured:
    """There is no damage record, and why."""

    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"measured": False, "reason": self.reason}


def damage_from_json(value: object) -> Damage | NotMeasured:
    """The inverse of `to_json`. FormatError names the key that is missing or wrong."""
    record = _Reader(value, "damage record")
    if not record.truth("measured"):
        return NotMeasured(record.text("reason"))
    modes = record.inner("arithmetic")
    floor = record.inner_or_none("noise_floor")
    domains = record.inner("domains")
    return Damage(
        total=_figures_from_json(record),
        arithmetic=Arithmetic(
            modes.text("original"),
            modes.text("compressed"),
            modes.text("noise_floor") if "noise_floor" in modes.value else None,
        ),
        text=record.text("text"),
        longest=record.count("longest_window"),
        domains={name: _figures_from_json(domains.inner(name)) for name in domains.value},
        floor=None if floor is None else _figures_from_json(floor),
    )


def _figures_to_json(part: Figures) -> dict[str, Any]:
    return {
        "tokens": part.tokens,
        "windows": part.windows,
        "broken": {"original": part.broken_original, "compressed": part.broken_compressed},
        "kl": {
            "mean": _short(part.kl.mean.value),
            "standard_error": _short(part.kl.mean.error),
            "median": _short(part.kl.median),
            "p90": _short(part.kl.p90),
            "p99": _short(part.kl.p99),
            "p999": _short(part.kl.p999),
            "max": _short(part.kl.largest),
        },
        "top1_agreement": _short(part.top1.value),
        "top1_standard_error": _short(part.top1.error),
        "perplexity": {
            "original": _short(part.original.value),
            "original_standard_error": _short(part.original.error),
            "compressed": _short(part.compressed.value),
            "compressed_standard_error": _short(part.compressed.error),
            "log_ratio": _short(part.log_ratio.value),
            "log_ratio_standard_error": _short(part.log_ratio.error),
        },
        "confidence": [
            {
                "from": bucket.low,
                "to": bucket.high,
                "tokens": bucket.tokens,
                "kl_mean": _short(bucket.kl.value),
                "kl_standard_error": _short(bucket.kl.error),
                "top1_agreement": _short(bucket.top1.value),
                "top1_standard_error": _short(bucket.top1.error),
            }
            for bucket in part.buckets
        ],
    }


def _figures_from_json(part: _Reader) -> Figures:
    kl, perplexity, broken = part.inner("kl"), part.inner("perplexity"), part.inner("broken")
    return Figures(
        tokens=part.count("tokens"),
        windows=part.count("windows"),
        broken_original=broken.count("original"),
        broken_compressed=broken.count("compressed"),
        kl=Spread(
            Estimate(kl.number("mean"), kl.number("standard_error")),
            *(kl.number(key) for key in ("median", "p90", "p99", "p999", "max")),
        ),
        top1=Estimate(part.number("top1_agreement"), part.number("top1_standard_error")),
        original=_estimate_from_json(perplexity, "original"),
        compressed=_estimate_from_json(perplexity, "compressed"),
        log_ratio=_estimate_from_json(perplexity, "log_ratio"),
        buckets=tuple(_bucket_from_json(bucket) for bucket in part.list("confidence")),
    )


def _estimate_from_json(part: _Reader, key: str) -> Estimate:
    return Estimate(part.number(key), part.number(f"{key}_standard_error"))


def _bucket_from_json(part: _Reader) -> Bucket:
    return Bucket(
        low=part.number("from") or 0.0,
        high=part.number("to") or 0.0,
        tokens=part.count("tokens"),
        kl=Estimate(part.number("kl_mean"), part.number("kl_standard_error")),
        top1=Estimate(part.number("top1_agreement"), part.number("top1_standard_error")),
    )


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


class _Reader:
    """Typed access to one JSON object from a file that may come from anyone."""

    def __init__(self, value: object, place: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(
                "not an object", where=place, got=type(value).__name__, expected="an object", code="MANIFEST"
            )
        self.value, self._place = value, place

    def _get(self, key: str, wanted: str, *types: type) -> Any:
        found = self.value.get(key)
        # True is an int in Python, but no number in JSON.
        if (
            key not in self.value
            or not isinstance(found, types)
            or isinstance(found, bool) != (bool in types)
        ):
            raise FormatError(
                "a key is missing or of the wrong type",
                where=f"{self._place}.{key}",
                got=type(found).__name__ if key in self.value else "nothing",
                expected=wanted,
                code="MANIFEST",
            )
        return found

    def truth(self, key: str) -> bool:
        return self._get(key, "true or false", bool)

    def text(self, key: str) -> str:
        return self._get(key, "text", str)

    def count(self, key: str) -> int:
        found = self._get(key, "a whole number", int)
        if found < 0:
            raise FormatError(
                "a count below zero", where=f"{self._place}.{key}", got=str(found)[:40], code="MANIFEST"
            )
        return found

    def number(self, key: str) -> float | None:
        found = self._get(key, "a number or null", int, float, type(None))
        try:
            number = None if found is None else float(found)
        except OverflowError:
            number = math.inf
        if number is not None and not math.isfinite(number):
            raise FormatError("not a finite number", where=f"{self._place}.{key}", code="MANIFEST")
        return number

    def inner(self, key: str) -> _Reader:
        return _Reader(self._get(key, "an object", dict), f"{self._place}.{key}")

    def inner_or_none(self, key: str) -> _Reader | None:
        found = self._get(key, "an object or null", dict, type(None))
        return None if found is None else self.inner(key)

    def list(self, key: str) -> list[_Reader]:
        found = self._get(key, "a list", list)
        return [_Reader(value, f"{self._place}.{key}[{index}]") for index, value in enumerate(found)]
