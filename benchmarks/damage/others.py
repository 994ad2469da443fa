"""Tables of models that are no language models: speech, encoders, encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common import markdown

from damage.subjects import OTHERS

Row = Mapping[str, Any]


def other_models(rows: Sequence[Row]) -> str:
    parts = []
    for name in OTHERS:
        mine = [row for row in rows if row["model"] == name]
        if mine:
            ordered = sorted(mine, key=lambda row: (-row["bits"], row["plan"] != "uniform", row["plan"]))
            table = _vectors(ordered) if "vectors" in mine[0]["damage"] else _scores(ordered)
            parts.append(f"## {name}\n\n{table}\n")
    return "\n".join(parts)


def _front(row: Row) -> tuple[str, ...]:
    return f"{row['plan']}, {row['at']}", f"{row['megabytes']:.1f}", f"{row['bits']:.3f}"


def _scores(rows: Sequence[Row]) -> str:
    """KL of the teacher-forced decoder, and what its transcripts or answers are worth."""
    names = [one["name"] for one in rows[0]["damage"].get("quality", [])]
    lines = []
    for row in rows:
        damage = row["damage"]
        kl = damage["kl"]
        cells = [f"{kl['mean']:.3g} ± {kl['standard_error']:.1g}", f"{100 * damage['top1_agreement']:.1f}"]
        rated = {one["name"]: one for one in damage.get("quality", [])}
        lines.append((*_front(row), *cells, *(_quality(rated.get(name)) for name in names)))
    first = {one["name"]: one for one in rows[0]["damage"].get("quality", [])}
    told = ", ".join(f"{name} {100 * first[name]['original']:.2f} %" for name in names)
    items = next((one["items"] for one in first.values()), 0)
    note = f"The original: {told} ({items} items). In brackets the difference from it, in points.\n\n"
    head = ("plan", "MB", "bits", "KL", "top-1 %", *(f"{name} %" for name in names))
    return (note if names else "") + markdown(lines, head)


def _quality(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "–"
    error = one["difference_standard_error"]
    doubt = "" if error is None else f" ± {100 * error:.2f}"
    return f"{100 * one['compressed']:.2f} ({100 * one['difference']:+.2f}{doubt})"


def _vectors(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        vectors = row["damage"]["vectors"]
        texts = vectors["pooled_cosine"]
        near = "–" if row.get("neighbours") is None else f"{100 * row['neighbours']:.1f}"
        lines.append(
            (
                *_front(row), f"{vectors['relative_error']['mean']:.3g}", f"{vectors['cosine']['mean']:.5f}",
                f"{texts['mean']:.5f}", f"{texts['min']:.5f}", near,
            )
        )  # fmt: skip
    head = ("plan", "MB", "bits", "relative squared error", "cosine of tokens", "cosine of texts", "lowest",
            "same 10 nearest, %")  # fmt: skip
    return markdown(lines, head)
