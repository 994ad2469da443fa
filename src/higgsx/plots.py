"""Pictures of a plan: loss against size, and bits of every layer by kind of weight. Plain SVG, written here.

The same figure gives the same bytes everywhere. A PNG is made from it where CairoSVG is installed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from xml.sax.saxutils import escape

from higgsx import io
from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import CostTable
from higgsx.errors import BudgetError, UsageError

WIDTH = 720
_STEPS = 48
_STATES = 400
"""Points of a curve need no proof that they are the best."""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, which colour-blind people can tell apart."""
_LOW, _HIGH = (0xF7, 0xFB, 0xFF), (0x08, 0x45, 0x94)
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 34, 52


@dataclass(frozen=True)
class Series:
    """points  (x, y, standard error of y; 0 for none), in the order in which a line joins them
    mark    "circle", "square", "diamond", "star", or "" for none
    names   written beside the points
    """

    name: str
    points: Sequence[tuple[float, float, float]]
    line: bool = False
    mark: str = "circle"
    names: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Panel:
    """A piece of a picture, its own coordinates from 0."""

    height: float
    parts: str


def save(panels: Sequence[Panel], path: str | os.PathLike[str], force: bool = False) -> None:
    """Write panels below each other: `.svg`, or `.png` at three pixels to a point.

    UsageError for another ending, or a `.png` where CairoSVG is not installed; StorageError for a file that
    is there, without `force`.
    """
    place = Path(path)
    ending = place.suffix.lower()
    if ending not in (".svg", ".png"):
        raise UsageError(
            "no such kind of picture", where=place, got=ending or "no ending", expected=".svg or .png"
        )
    io.refuse_existing(place, force)
    text = svg(panels)
    io.write_file_atomic(place, text.encode() if ending == ".svg" else _png(text, place))


def require_drawable(path: str | os.PathLike[str]) -> None:
    """UsageError as in `save`, before any work is done."""
    if Path(path).suffix.lower() == ".png":
        _cairosvg(path)
    elif Path(path).suffix.lower() != ".svg":
        save([], path)


def _cairosvg(where: object) -> object:
    try:
        import cairosvg
    except (ImportError, OSError):  # installed, but the cairo library is not
        raise UsageError(
            "a PNG needs CairoSVG", where=where, remedy="pip install 'higgsx[plot]', or ask for a .svg"
        ) from None
    return cairosvg


def _png(text: str, where: object) -> bytes:
    done: bytes = _cairosvg(where).svg2png(bytestring=text.encode(), scale=3, background_color="white")  # type: ignore[attr-defined]
    return done


def svg(panels: Sequence[Panel]) -> str:
    height = sum(panel.height for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{_n(height)}" '
        f'viewBox="0 0 {WIDTH} {_n(height)}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{_n(height)}" fill="white"/>',
    ]
    begin = 0.0
    for panel in panels:
        lines.append(f'<g transform="translate(0 {_n(begin)})">\n{panel.parts}\n</g>')
        begin += panel.height
    return "\n".join([*lines, "</svg>\n"])


def of_plan(table: CostTable, plan: Plan) -> list[Panel]:
    """Both pictures of a plan and the table that it was made from."""
    size = f"{plan.nbytes / 1e6:.0f} MB, {float(plan.bits):.2f} bits"
    chosen = Series(f"this plan ({size})", [(plan.nbytes / 1e6, plan.loss, 0.0)], mark="star")
    series = [Series("best plans", list(_curve(table)), line=True, mark=""), *_uniform(table), chosen]
    axes = ("size of all matrices, MB", f"predicted loss, {plan.unit}")
    return [scatter(series, "Predicted loss against size", *axes), bits_by_layer(plan.choices)]


def _curve(table: CostTable) -> Iterator[tuple[float, float, float]]:
    counted = [group for group in table.groups if group.counted]
    least = sum(min(one.nbytes for one in group.candidates) for group in counted)
    most = sum(min(one.nbytes for one in group.candidates if one.exact) for group in counted)
    for step in range(_STEPS):
        nbytes = math.ceil(least * (most / least) ** (step / _STEPS))
        try:
            found = solve(table, Budget.of_bits(Fraction(nbytes * 8, table.weights)), most_states=_STATES)
        except BudgetError:
            continue
        if found.loss > 0:
            yield found.nbytes / 1e6, found.loss, 0.0


def _uniform(table: CostTable) -> list[Series]:
    """One code for every group that may be compressed; the others as they are."""
    open_ = [group for group in table.groups if len(group.candidates) > 1]
    labels = [one.label for one in open_[0].candidates if not one.exact] if open_ else []
    points: list[tuple[float, float, float]] = []
    for label in labels:
        found = [(group, group.find(label) or group.candidates[0]) for group in table.groups]
        if any(one.exact for group, one in found if len(group.candidates) > 1):
            continue
        nbytes = sum(one.nbytes for group, one in found if group.counted)
        points.append((nbytes / 1e6, math.fsum(one.loss for _, one in found), 0.0))
    return [Series("one code for all", [point for point in points if point[1] > 0])] if points else []


def scatter(series: Sequence[Series], title: str, across: str, up: str, height: float = 380) -> Panel:
    """Points and lines; y is logarithmic, so y must be above 0."""
    points = [point for one in series for point in one.points]
    if not points:
        return Panel(40, _text(WIDTH / 2, 24, f"{title}: nothing to show", "middle"))
    left, right = _linear([x for x, _, _ in points])
    low, high = min(y for _, y, _ in points), max(y + error for _, y, error in points)
    bottom, top = math.log10(low) - 0.12, math.log10(high) + 0.12

    def x_of(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        share = (math.log10(max(y, low)) - bottom) / (top - bottom)
        return height - _BOTTOM - share * (height - _TOP - _BOTTOM)

    parts = [_text(WIDTH / 2, 18, title, "middle", "bold")]
    for tick in _ticks(left, right):
        parts.append(_line(x_of(tick), height - _BOTTOM, x_of(tick), _TOP, "#e6e6e6"))
        parts.append(_text(x_of(tick), height - _BOTTOM + 17, f"{tick:g}", "middle"))
    for value in _log_ticks(10**bottom, 10**top):
        parts.append(_line(_LEFT, y_of(value), WIDTH - _RIGHT, y_of(value), "#e6e6e6"))
        parts.append(_text(_LEFT - 7, y_of(value) + 4, f"{value:g}", "end"))
    frame = (_LEFT, _TOP, WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM)
    parts.append(f'<rect x="{frame[0]}" y="{frame[1]}" width="{_n(frame[2])}" height="{_n(frame[3])}" '
                 'fill="none" stroke="#333"/>')  # fmt: skip
    parts.append(_text(_LEFT + frame[2] / 2, height - 12, across, "middle"))
    middle = _TOP + frame[3] / 2
    parts.append(f'<g transform="rotate(-90 16 {_n(middle)})">{_text(16, middle + 4, up, "middle")}</g>')
    for number, one in enumerate(series):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _drawn(
            one, colour, [(x_of(x), y_of(y), y_of(max(y - e, low)), y_of(y + e)) for x, y, e in one.points]
        )
        parts += _legend(one, colour, WIDTH - _RIGHT - 12, _TOP + 18 + 18 * number)
    return Panel(height, "\n".join(parts))


def _drawn(one: Series, colour: str, places: Sequence[tuple[float, float, float, float]]) -> list[str]:
    parts = []
    if one.line and len(places) > 1:
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y, _, _ in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    for number, (x, y, below, above) in enumerate(places):
        if below != above:
            parts.append(_line(x, below, x, above, colour))
        parts.append(_mark(one.mark, x, y, colour))
        if number < len(one.names):
            parts.append(_text(x + 7, y - 6, one.names[number], "start", size=10))
    return parts


def _legend(one: Series, colour: str, x: float, y: float) -> list[str]:
    sample = _line(x - 22, y - 4, x, y - 4, colour, 1.6) if one.line else ""
    return [_text(x - 30, y, one.name, "end"), sample, _mark(one.mark, x - 11, y - 4, colour)]


def _mark(mark: str, x: float, y: float, colour: str) -> str:
    if mark == "circle":
        return (
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="3.6" fill="white" stroke="{colour}" stroke-width="1.6"/>'
        )
    shapes = {"square": (4, 4.6, 5), "diamond": (4, 5.2, 0), "star": (10, 9.0, 2)}
    if mark not in shapes:
        return ""
    corners, radius, turn = shapes[mark]
    path = []
    for corner in range(corners):
        angle = math.pi * (2 * corner / corners - 0.5) + (math.pi / 4 if turn == 5 else 0.0)
        reach = radius * (0.42 if mark == "star" and corner % 2 else 1.0)
        path.append(f"{_n(x + reach * math.cos(angle))},{_n(y + reach * math.sin(angle))}")
    return f'<polygon points="{" ".join(path)}" fill="{colour}" stroke="white" stroke-width="0.7"/>'


def bits_by_layer(choices: Sequence[Choice], title: str = "Bits of a weight, by layer and kind") -> Panel:
    """A grid: a row for every kind of weight, a column for every layer; what is in no layer stands below."""
    kinds: dict[str, dict[int, Choice]] = {}
    others = []
    for choice in choices:
        if not choice.counted:
            continue
        parts = choice.name.split(".")
        place = next((n for n, part in enumerate(parts) if part.isdigit()), None)
        if place is None:
            others.append(choice)
            continue
        kind = ".".join(part for part in (*parts[:place], "#", *parts[place + 1 :]) if part != "weight")
        kinds.setdefault(kind, {})[int(parts[place])] = choice
    return _grid(_short(kinds), others, title)


def _short(kinds: Mapping[str, dict[int, Choice]]) -> dict[str, dict[int, Choice]]:
    """Kinds without what all of them begin with."""
    start = os.path.commonprefix(list(kinds))
    start = start[: start.rfind(".") + 1] if len(kinds) > 1 else ""
    return {kind[len(start) :].removeprefix("#."): row for kind, row in kinds.items()}


def _grid(kinds: Mapping[str, Mapping[int, Choice]], others: Sequence[Choice], title: str) -> Panel:
    layers = sorted({layer for row in kinds.values() for layer in row})
    bits = [float(one.bits) for row in kinds.values() for one in row.values()] or [0.0]
    low, high = min(bits), max(max(bits), min(bits) + 0.5)
    names = 12 + 6.2 * max((len(kind) for kind in kinds), default=0)
    cell = min(40.0, (WIDTH - names - _RIGHT) / max(1, len(layers)))
    parts = [_text(WIDTH / 2, 18, title, "middle", "bold")]
    for row, (kind, of_layers) in enumerate(kinds.items()):
        y = _TOP + 22 * row
        parts.append(_text(names - 6, y + 15, kind, "end", size=11))
        for column, layer in enumerate(layers):
            if layer in of_layers:
                parts.append(_cell(names + cell * column, y, cell, float(of_layers[layer].bits), low, high))
    end = _TOP + 22 * len(kinds)
    every = max(1, math.ceil(24 / cell))
    for column, layer in enumerate(layers):
        if column % every == 0:
            parts.append(_text(names + cell * (column + 0.5), end + 14, str(layer), "middle", size=10))
    if layers:
        parts.append(_text(names + cell * len(layers) / 2, end + 30, "layer", "middle"))
    for number, choice in enumerate(others):
        told = f"{choice.name.removesuffix('.weight')}: {float(choice.bits):.2f} bits ({choice.label})"
        parts.append(_text(12, end + 50 + 16 * number, told, "start", size=11))
    return Panel(end + 50 + 16 * len(others), "\n".join(parts))


def _cell(x: float, y: float, width: float, bits: float, low: float, high: float) -> str:
    share = (bits - low) / (high - low)
    rgb = tuple(round(a + (b - a) * share) for a, b in zip(_LOW, _HIGH, strict=True))
    fill = f"#{rgb[0]:02x}{rgb[1]:02x}{rgb[2]:02x}"
    box = (f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="22" fill="{fill}" '
           'stroke="white" stroke-width="0.8"/>')  # fmt: skip
    if width < 20:
        return box
    colour = "white" if share > 0.5 else "#222"
    return box + _text(x + width / 2, y + 15, f"{bits:.1f}", "middle", size=9.5, colour=colour)


def _linear(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or max(1.0, 0.1 * abs(high))
    return max(0.0, low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    wide = math.log10(high / low) > 2.5
    ticks = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in ((1,) if wide else (1, 2, 5))
    ]
    return [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, width: float = 1.0) -> str:
    ends = f'x1="{_n(x)}" y1="{_n(y)}" x2="{_n(to_x)}" y2="{_n(to_y)}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{_n(width)}"/>'


def _text(
    x: float, y: float, text: str, anchor: str, weight: str = "normal", size: float = 12, colour: str = "#222"
) -> str:
    how = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{_n(size)}" fill="{colour}"'
    return f'<text x="{_n(x)}" y="{_n(y)}" {how}>{escape(text)}</text>'


def _n(number: float) -> str:
    """Two digits are enough, and the same everywhere."""
    return f"{round(number, 2) + 0.0:g}"
