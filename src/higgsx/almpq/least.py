"""The smallest plan that loses no more than asked for: the same search with bytes and losses exchanged."""

from __future__ import annotations

import dataclasses
import math

from higgsx.almpq.budget import Budget
from higgsx.almpq.search import MOST_STATES, Row, search
from higgsx.almpq.solve import Entry, Solution, price, undominated
from higgsx.almpq.table import CostTable, Group
from higgsx.errors import UsageError

_STEPS = 1 << 40
"""The target in whole steps; a loss is rounded up to them."""


def least_bytes(table: CostTable, most_loss: float, *, most_states: int = MOST_STATES) -> Solution:
    """The plan with the fewest bytes in the file whose predicted loss is at most `most_loss`.

    Losses are rounded up to steps of 2^-40 of the target, so the plan is never over it. Where `most_states`
    is reached, `optimal` is False. The bound is of the loss: 0.
    """
    if not 0 < most_loss < math.inf:
        raise UsageError("not a loss to stay below", got=most_loss, expected="more than 0")
    budget = Budget.of_size(1 << 62)
    rows, kept = [], []
    for group in table.groups:
        entries = _rising(group, budget, most_loss)
        kept.append(entries)
        rows.append(
            Row(tuple(_whole(one.loss, most_loss) for one in entries), tuple(one.cost for one in entries))
        )
    found = search(rows, _STEPS, most_states)
    choice = [entries[entry].place for entries, entry in zip(kept, found.entries, strict=True)]
    return dataclasses.replace(price(table, budget, choice, 0.0), optimal=found.optimal)


def _rising(group: Group, budget: Budget, most_loss: float) -> list[Entry]:
    """Candidates that no other beats and that alone stay within the target; the least loss first."""
    kept: list[Entry] = []
    for entry in reversed(undominated(group, budget)):
        if kept and _whole(entry.loss, most_loss) == _whole(kept[-1].loss, most_loss):
            kept[-1] = entry  # the same within a step, and smaller
        elif not kept or entry.loss <= most_loss:
            kept.append(entry)
    return kept


def _whole(loss: float, most_loss: float) -> int:
    return math.ceil(loss / most_loss * _STEPS)


def rescaled(table: CostTable, factor: float, why: str) -> CostTable:
    """The same table with every loss multiplied, after measuring showed how far predictions are off.

    why  what was measured, in words; it becomes part of the table's constants and so of its digest
    """
    groups = tuple(
        dataclasses.replace(
            group,
            candidates=tuple(
                dataclasses.replace(one, loss=float(f"{one.loss * factor:.6g}")) for one in group.candidates
            ),
        )
        for group in table.groups
    )
    return dataclasses.replace(table, groups=groups, constants=f"{table.constants}; {why}")
