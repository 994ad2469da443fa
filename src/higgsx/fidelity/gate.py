"""Which results are refused, only broken ones unless the user set a limit; and which are to be doubted."""

from __future__ import annotations

from higgsx.fidelity.render import number
from higgsx.fidelity.report import Damage, NotMeasured

FAR = 30.0
"""This many times the predicted KL is far beyond it: predictions miss by a few times, never by this."""
SMALL = 1e-3
"""Predictions below this (nats per token, relative squared error) are taken as this; arithmetic noise alone
may be near it."""

DOUBTFUL = 4.0
"""Above this many times the loss predicted from data a plan is doubted. Language models measure up to 3 times
what is predicted on unlike texts; a speech model measured 5.5 times, more than without data."""


def gate(
    damage: Damage | NotMeasured,
    predicted: float | None,
    limit: float | None = None,
    learned: bool = False,
) -> str | None:
    """None if the result may be kept, else the reason in one line.

    predicted  the plan's loss in the unit of what was measured; None: no prediction
    limit      the user's own for the mean KL, or of hidden states the mean relative squared error
    learned    whether the prediction comes from data of this model
    Two standard errors of doubt count for the result.
    """
    if isinstance(damage, NotMeasured):
        return None
    figures = damage.total
    everything = figures.tokens + figures.broken_original + figures.broken_compressed
    if figures.broken_original:
        return f"the original itself gives NaN or Inf at {figures.broken_original:,} of {everything:,} tokens"
    if figures.broken_compressed:
        return (
            f"the compressed model gives NaN or Inf at {figures.broken_compressed:,} of {everything:,} tokens"
        )
    loss = figures.loss
    if loss.value is None:
        return None
    surely = loss.value - 2 * (loss.error or 0.0)
    name = "KL " if figures.vectors is None else ""
    measured = f"{name}{number(loss.value)} {figures.unit}"
    # what turns a guess without data into nats was fitted on language models alone
    trusted = learned or damage.kind == "language"
    if predicted is not None and trusted and surely > FAR * max(predicted, SMALL):
        return f"{measured} is far beyond the predicted {number(predicted)}: the result is broken"
    if limit is not None and surely > limit:
        return f"{measured} is above the allowed {number(limit)}"
    return None


def doubt(damage: Damage | NotMeasured, predicted: float | None) -> str:
    """One line where much more was lost than data predicted, so that other plans may be better; else empty.

    predicted  from data, in the unit of what was measured; None: no prediction
    """
    if isinstance(damage, NotMeasured) or predicted is None:
        return ""
    loss = damage.total.loss
    if loss.value is None or loss.value - 2 * (loss.error or 0.0) <= DOUBTFUL * max(predicted, SMALL):
        return ""
    return (
        f"{number(loss.value)} was measured where data predicted {number(predicted)}: what was learned does "
        "not hold here. Compare with a file made without gradients, or --calibration with more material"
    )
