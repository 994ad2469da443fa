"""The smallest file within a loss: predicted, encoded, measured; planned anew with what measuring taught."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from higgsx.almpq.least import least_bytes, rescaled
from higgsx.almpq.plan import Plan
from higgsx.almpq.table import CostTable
from higgsx.errors import DamageError
from higgsx.fidelity.report import Damage, NotMeasured

ATTEMPTS = 3
"""The first plan and two that measuring has corrected."""
_AIM = 0.97
"""Corrected plans aim a little below: the correction holds for the plan that it was measured on."""
_log = logging.getLogger("higgsx")

R = TypeVar("R")


class OverTarget(Exception):  # noqa: N818 - not an error: it is caught here
    """What was encoded loses more than was asked for."""

    def __init__(self, measured: float) -> None:
        super().__init__(measured)
        self.measured = measured


def require_within(damage: Damage | NotMeasured, most: float) -> None:
    """OverTarget where the measured mean is above; DamageError where nothing was measured."""
    if isinstance(damage, NotMeasured):
        raise DamageError(
            "a loss was asked for but the damage was not measured", got=damage.reason,
            remedy="ask for bits or a size instead",
        )  # fmt: skip
    value = damage.total.loss.value
    if value is None:
        return  # broken: the gate says it
    if value > most:
        raise OverTarget(value)


def within_loss(table: CostTable, most: float, encode: Callable[[Plan, float], R]) -> R:
    """`encode(plan, most)` of the smallest plan that measures within `most`.

    encode  raises OverTarget with what it measured where that is above
    DamageError after three attempts, with the smallest loss that was reached.
    """
    reached: list[tuple[float, Plan]] = []
    for attempt in range(ATTEMPTS):
        plan = Plan.from_solution(table, least_bytes(table, most * (_AIM if attempt else 1.0)), None)
        try:
            return encode(plan, most)
        except OverTarget as over:
            reached.append((over.measured, plan))
            _log.warning("measured %.4g where %.4g was asked for", over.measured, most)
        measured = reached[-1][0]
        if plan.loss <= 0:  # everything that could be better is exact already: what is left is arithmetic
            break
        factor = max(measured / plan.loss, 1.0)
        table = rescaled(table, factor, f"losses times {factor:.5g} after measuring {measured:.5g}")
    least, plan = min(reached, key=lambda one: one[0])
    raise DamageError(
        f"no plan measured within the loss after {len(reached)} attempts",
        got=f"{least:.4g} {table.unit} at {float(plan.bits):.3f} bits",
        expected=f"at most {most:.4g}",
        remedy=f"ask for a loss of {least * 1.02:.3g} or more, or for bits",
    )
