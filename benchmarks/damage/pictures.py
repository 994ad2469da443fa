"""Pictures for docs/results.md, drawn from measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anchors
from common import REAL_MODELS, ROOT

from higgsx.plots import Series, save, scatter

Row = Mapping[str, Any]
_PLACE = ROOT / "docs" / "plots"
_SHOWN = {
    "uniform": ("one code for all", False, "circle"),
    "ALMPQ": ("ALMPQ", True, "diamond"),
    "ALMPQ gradients": ("ALMPQ, gradients", True, "square"),
    "ALMPQ gradients hybrid": ("hybrid", False, "star"),
}


def of_model(name: str, rows: Sequence[Row]) -> str:
    """Draws measured loss against size, and gives the line that shows it; empty for small models."""
    series = [one for plan in _SHOWN if (one := _series(plan, rows)) is not None]
    if name not in REAL_MODELS or not series:
        return ""
    if name == anchors.MODEL:
        weights = rows[0]["megabytes"] / rows[0]["bits"]
        peers = [(float(one.bits) * weights, one.kl, one.error) for one in anchors.LLAMA_CPP]
        names = tuple(one.name for one in anchors.LLAMA_CPP)
        series.append(Series("llama.cpp", peers, mark="circle", names=names))
    title = f"Measured loss against size, {name}"
    panel = scatter(series, title, "size of all matrices, MB", "KL, nats per token", height=430)
    _PLACE.mkdir(exist_ok=True)
    save([panel], _PLACE / f"{name}.svg", force=True)
    return f"![{title}](plots/{name}.svg)\n"


def _series(plan: str, rows: Sequence[Row]) -> Series | None:
    name, line, mark = _SHOWN[plan]
    points = sorted(
        (row["megabytes"], row["damage"]["kl"]["mean"], row["damage"]["kl"]["standard_error"])
        for row in rows
        if row["plan"] == plan and row["at"].count(".") < 2
    )
    return Series(name, points, line, mark) if points else None
