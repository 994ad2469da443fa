"""The damage record as lines of plain text."""

from __future__ import annotations

import math
from collections.abc import Callable

from higgsx.fidelity.figures import Bucket, Estimate, Figures, Vectors
from higgsx.fidelity.quality import Quality
from higgsx.fidelity.report import Damage, NotMeasured

NOTHING = "-"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, never more than it has: 0.0123, 12.3, 12,300, 1.23e-5. None: `-`."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = int(exponent)
    if power < -4 or power >= 7:
        return f"{mantissa}e{power}"
    decimals = max(0, digits - 1 - power)
    return f"{float(f'{value:.{digits - 1}e}'):,.{decimals}f}"


def with_error(estimate: Estimate) -> str:
    """`0.0123 ± 0.00045`."""
    if estimate.value is None or estimate.error is None:
        return number(estimate.value)
    return f"{number(estimate.value)} ± {number(estimate.error, 2)}"


def percent(estimate: Estimate) -> str:
    """A share as per cent with two decimals, so that 99.97 does not become 100."""
    if estimate.value is None:
        return NOTHING
    error = "" if estimate.error is None else f" ± {100 * estimate.error:.2f}"
    return f"{100 * estimate.value:.2f}{error} %"


_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("tokens", lambda part: f"{part.tokens:,}"),
    ("KL mean", lambda part: with_error(part.kl.mean)),
    ("KL median", lambda part: number(part.kl.median)),
    ("KL 90 %", lambda part: number(part.kl.p90)),
    ("KL 99 %", lambda part: number(part.kl.p99)),
    ("KL 99.9 %", lambda part: number(part.kl.p999)),
    ("KL max", lambda part: number(part.kl.largest)),
    ("top-1 agreement", lambda part: percent(part.top1)),
    ("perplexity original", lambda part: with_error(part.original)),
    ("perplexity compressed", lambda part: with_error(part.compressed)),
    ("ln of their ratio", lambda part: with_error(part.log_ratio)),
)


def cosine(value: Estimate | float | None) -> str:
    """Six decimals, so that 0.99996 does not become 1."""
    if value is None or isinstance(value, float):
        return NOTHING if value is None else f"{value:.6f}"
    error = "" if value.error is None else f" ± {number(value.error, 2)}"
    return NOTHING if value.value is None else f"{value.value:.6f}{error}"


def _vectors(show: Callable[[Vectors], str]) -> Callable[[Figures], str]:
    return lambda part: NOTHING if part.vectors is None else show(part.vectors)


_HEAD = ["", "original", "compressed", "difference", "items"]

_VECTOR_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("positions", lambda part: f"{part.tokens:,}"),
    ("relative error mean", _vectors(lambda part: with_error(part.error.mean))),
    ("relative error median", _vectors(lambda part: number(part.error.median))),
    ("relative error 99 %", _vectors(lambda part: number(part.error.p99))),
    ("relative error max", _vectors(lambda part: number(part.error.largest))),
    ("cosine mean", _vectors(lambda part: cosine(part.cosine))),
    ("cosine min", _vectors(lambda part: cosine(part.least))),
    ("texts", _vectors(lambda part: f"{part.texts:,}")),
    ("cosine of texts mean", _vectors(lambda part: cosine(part.pooled))),
    ("cosine of texts min", _vectors(lambda part: cosine(part.pooled_least))),
)


def _line(text: str) -> str:
    """A record may come from anyone: no control characters reach a terminal."""
    return text if text.isprintable() else ascii(text)


def render(damage: Damage | NotMeasured) -> list[str]:
    """Lines without line ends. KL is KL(original ‖ compressed) in nats per token, ± one standard error."""
    if isinstance(damage, NotMeasured):
        return [f"damage: not measured ({_line(damage.reason)})"]
    pieces, units = ("windows", "tokens") if damage.kind == "language" else ("batches", "positions")
    lines = [
        f"damage, measured on {damage.total.windows:,} {pieces} of up to {damage.longest:,} {units}: "
        f"{_line(damage.text)}",
        f"  original: {_line(damage.arithmetic.original)}",
        f"  compressed: {_line(damage.arithmetic.compressed)}",
    ]
    columns = {"all": damage.total, **{_line(name): part for name, part in damage.domains.items()}}
    if damage.floor is not None:
        lines.append(f"  noise floor: {_line(damage.arithmetic.floor or 'mode not said')}")
        columns["noise floor"] = damage.floor
    for who, broken in _broken(damage.total):
        lines.append(f"  BROKEN: the {who} gives NaN or Inf at {broken:,} {units}, left out below")
    table = [["", *columns]]
    vectors = damage.total.vectors is not None
    rows = _VECTOR_ROWS if vectors else _ROWS
    table += [[name, *(show(part) for part in columns.values())] for name, show in rows]
    lines += ["", *_aligned(table)]
    if damage.quality:
        lines += ["", *_aligned([_HEAD, *map(_rated, damage.quality)])]
        lines += [f"  compared with {_line(damage.quality[0].against)}"]
    if vectors:
        return [*lines, "", "relative squared error of hidden states; ± one standard error"]
    lines += ["", "by the original's highest probability"]
    lines += _aligned([["", "tokens", "KL mean", "top-1 agreement"], *map(_bucket, damage.total.buckets)])
    lines += ["", "KL(original ‖ compressed) in nats per token; ± one standard error"]
    return lines


def _rated(one: Quality) -> list[str]:
    rates = (one.original, one.compressed, one.difference)
    return [_line(one.name), *map(percent, rates), f"{one.items:,}"]


def _broken(part: Figures) -> list[tuple[str, int]]:
    both = [("original", part.broken_original), ("compressed model", part.broken_compressed)]
    return [(who, count) for who, count in both if count]


def _bucket(bucket: Bucket) -> list[str]:
    name = f"{bucket.low:.2f} to {bucket.high:.2f}"
    return [name, f"{bucket.tokens:,}", with_error(bucket.kl), percent(bucket.top1)]


def _aligned(table: list[list[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    ]
