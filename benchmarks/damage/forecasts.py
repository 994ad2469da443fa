"""What `benchmarks/prediction.py` found, as text; rank correlation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import markdown

_INTRO = """## Predicted against measured

Printed by `benchmarks/prediction.py`; nothing here is typed by hand. {machine}.

- One group at a time gets gauss8.b64 while all others are exact; KL on held-back text. Of many groups those
  at evenly spaced places of the order by predicted loss, and what the model reads and says. Each is stored as
  its prediction counts on: without data as it is, with gradients after their channel scales.
- Rank correlation: Spearman's, over these groups. Factor: measured over predicted; "spread" are its quartiles
  over groups.
- Whole plans: what the planner chooses at these bits by each prediction. Gradients say what is lost on text
  like that which they were learned from, and the model wrote that itself; on other text it loses more. So
  plans are measured on both: held-back text, and text that the model wrote, other than what was learned.
- "from such text": gradients learned from other text of the held-back kinds, as `--calibration` does, and not
  from what the model writes."""
KINDS = ("without data", "gradients")


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of ranks, equal values sharing the mean of their ranks (C. Spearman, 1904)."""
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def rank_correlation(rows: Sequence[Mapping[str, float]]) -> float:
    """Of what was predicted with what was measured."""
    return spearman([row["predicted"] for row in rows], [row["measured"] for row in rows])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[place]


def block(data: Mapping[str, Any]) -> str:
    parts = [_INTRO.format(machine=data["machine"])]
    for name, model in data["models"].items():
        tables = [_groups(model), _totals(model), _by_kind(model)] if model["groups"] else [_totals(model)]
        parts += [f"### {name}", *tables]
    return "\n\n".join(parts)


def _groups(model: Mapping[str, Any]) -> str:
    lines = []
    for kind in KINDS:
        rows = [row[kind] for row in model["groups"].values()]
        low, middle, high = statistics.quantiles(sorted(map(_over, rows)), n=4)
        found = rank_correlation(rows)
        verdict = "reached" if found >= 0.8 else "missed"
        lines.append(
            (
                kind,
                f"{len(rows)} of {model['of']}",
                f"{found:.3f}",
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
                verdict,
            )
        )
    return markdown(lines, ("prediction", "groups", "rank correlation", "factor", "spread", "target 0.8"))


def _totals(model: Mapping[str, Any]) -> str:
    lines = []
    for key, row in model["totals"].items():
        measured = f"{row['measured']:.3g} ± {row['error']:.1g}"
        held, own = (_factor(row.get(kind), row["predicted"]) for kind in ("measured", "own"))
        written = f"{row['own']:.3g}" if "own" in row else "–"
        lines.append((key, f"{row['predicted']:.3g}", measured, *held, written, *own))
    measured_on = ("held-back text", "factor", "within 2", "its own text", "factor", "within 2")
    return markdown(lines, ("plan", "predicted", *measured_on))


def _factor(measured: float | None, predicted: float) -> tuple[str, str]:
    if measured is None:
        return "–", "–"
    factor = measured / predicted
    return f"{factor:.2f}", "reached" if 0.5 <= factor <= 2 else "missed"


def _over(row: Mapping[str, float]) -> float:
    return row["measured"] / row["predicted"]


def _by_kind(model: Mapping[str, Any]) -> str:
    """The factor of each kind of weight: one that is the same in all layers could be calibrated."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for name, row in model["groups"].items():
        kind = ".".join(
            part for part in name.split(".") if not part.isdigit() and part not in ("weight", "model")
        )
        kinds.setdefault(kind, []).append(row)
    lines = []
    for kind, rows in kinds.items():
        cells = [f"{statistics.median(_over(row[how]) for row in rows):.2f}" for how in KINDS]
        lines.append((kind, len(rows), *cells))
    return markdown(lines, ("kind of weight", "groups", "factor without data", "factor with gradients"))
