"""The damage record: what was measured, on what, in which arithmetic. To JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from higgsx.errors import FormatError
from higgsx.fidelity.figures import Bucket, Estimate, Figures, Spread, Vectors
from higgsx.fidelity.quality import Quality

_DIGITS = 6  # significant ones, in JSON


@dataclass(frozen=True)
class Arithmetic:
    """The mode each model ran in, in words, such as "weights fp32, arithmetic fp32"."""

    original: str
    compressed: str
    floor: str | None = None


@dataclass(frozen=True)
class Damage:
    """Figures over all text, per domain (empty if there is one), and the noise floor if it was measured.

    kind     of the task
    quality  how well both models did the work, where they were let do it
    """

    total: Figures
    arithmetic: Arithmetic
    text: str
    longest: int
    domains: Mapping[str, Figures] = field(default_factory=dict)
    floor: Figures | None = None
    kind: str = "language"
    quality: tuple[Quality, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values. Has at least `kl.mean`, `kl.p99`, `top1_agreement`, `perplexity.original`,
        `perplexity.compressed`; of other tasks also `kind`, and where they apply `vectors` and `quality`. A
        figure that does not exist is null; numbers have six significant digits."""
        modes = {"original": self.arithmetic.original, "compressed": self.arithmetic.compressed}
        if self.arithmetic.floor is not None:
            modes["noise_floor"] = self.arithmetic.floor
        more: dict[str, Any] = {} if self.kind == "language" else {"kind": self.kind}
        if self.quality:
            more["quality"] = [_quality_to_json(one) for one in self.quality]
        return {
            "measured": True,
            **more,
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
        kind=record.text("kind") if "kind" in record.value else "language",
        quality=tuple(map(_quality_from_json, record.list("quality"))) if "quality" in record.value else (),
    )


def _figures_to_json(part: Figures) -> dict[str, Any]:
    return {
        **({} if part.vectors is None else {"vectors": _vectors_to_json(part.vectors)}),
        "tokens": part.tokens,
        "windows": part.windows,
        "broken": {"original": part.broken_original, "compressed": part.broken_compressed},
        "kl": _spread_to_json(part.kl),
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
        kl=_spread_from_json(kl),
        top1=Estimate(part.number("top1_agreement"), part.number("top1_standard_error")),
        original=_estimate_from_json(perplexity, "original"),
        compressed=_estimate_from_json(perplexity, "compressed"),
        log_ratio=_estimate_from_json(perplexity, "log_ratio"),
        buckets=tuple(_bucket_from_json(bucket) for bucket in part.list("confidence")),
        vectors=_vectors_from_json(part.inner("vectors")) if "vectors" in part.value else None,
    )


def _spread_to_json(part: Spread) -> dict[str, Any]:
    return {
        "mean": _short(part.mean.value),
        "standard_error": _short(part.mean.error),
        "median": _short(part.median),
        "p90": _short(part.p90),
        "p99": _short(part.p99),
        "p999": _short(part.p999),
        "max": _short(part.largest),
    }


def _spread_from_json(part: _Reader) -> Spread:
    return Spread(
        Estimate(part.number("mean"), part.number("standard_error")),
        *(part.number(key) for key in ("median", "p90", "p99", "p999", "max")),
    )


def _vectors_to_json(part: Vectors) -> dict[str, Any]:
    return {
        "relative_error": _spread_to_json(part.error),
        "cosine": _cosine_to_json(part.cosine, part.least),
        "texts": part.texts,
        "pooled_cosine": _cosine_to_json(part.pooled, part.pooled_least),
    }


def _cosine_to_json(mean: Estimate, least: float | None) -> dict[str, Any]:
    # six digits of what is missing to 1: a cosine of 0.99999994 must not become 1
    return {"mean": _near_one(mean.value), "standard_error": _short(mean.error), "min": _near_one(least)}


def _near_one(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else 1 - float(f"{1 - value:.{_DIGITS}g}")


def _vectors_from_json(part: _Reader) -> Vectors:
    cosine, pooled = part.inner("cosine"), part.inner("pooled_cosine")
    return Vectors(
        error=_spread_from_json(part.inner("relative_error")),
        cosine=Estimate(cosine.number("mean"), cosine.number("standard_error")),
        least=cosine.number("min"),
        texts=part.count("texts"),
        pooled=Estimate(pooled.number("mean"), pooled.number("standard_error")),
        pooled_least=pooled.number("min"),
    )


def _quality_to_json(one: Quality) -> dict[str, Any]:
    return {
        "name": one.name,
        "items": one.items,
        "against": one.against,
        "original": _short(one.original.value),
        "original_standard_error": _short(one.original.error),
        "compressed": _short(one.compressed.value),
        "compressed_standard_error": _short(one.compressed.error),
        "difference": _short(one.difference.value),
        "difference_standard_error": _short(one.difference.error),
    }


def _quality_from_json(part: _Reader) -> Quality:
    return Quality(
        part.text("name"),
        part.count("items"),
        part.text("against"),
        _estimate_from_json(part, "original"),
        _estimate_from_json(part, "compressed"),
        _estimate_from_json(part, "difference"),
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
