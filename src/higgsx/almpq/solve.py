"""The best plan within a budget: exact, and the same on every machine and in every order of the input.

Losses become whole numbers first, in steps of a power of two that leaves 61 bits for a whole plan, so two
plans are equal or not without rounding. Of equally good plans the one with fewest bytes is taken; of these
the one that gives an earlier group (in the order of execution) its dearer candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from higgsx.almpq.budget import Budget
from higgsx.almpq.search import MOST_STATES, Row, relax, search, steps
from higgsx.almpq.table import Candidate, CostTable, Group
from higgsx.errors import BudgetError
from higgsx.units import format_bytes

_LOSS_BITS = 61


@dataclass(frozen=True)
class Solution:
    """choice   index of the candidate of each group, in the table's order
    nbytes   payload bytes of the counted groups
    stored   bytes of all groups in the file; the budget's fixed part is not in it
    loss     predicted loss of the whole plan
    bound    no plan within the budget has a predicted loss below this
    optimal  whether that is proved to be `loss`
    """

    choice: tuple[int, ...]
    nbytes: int
    stored: int
    loss: float
    bound: float
    optimal: bool


class Entry(NamedTuple):
    """A candidate on its way into a row; sorts by what makes one candidate better than another."""

    cost: int
    loss: float
    stored: int
    label: str
    place: int  # in the group


def solve(table: CostTable, budget: Budget, *, most_states: int = MOST_STATES) -> Solution:
    """The plan with the least predicted loss within the budget. BudgetError names the least that can be had.

    Never worse than any uniform plan that fits (`best_uniform`). `most_states` bounds time and memory for
    tables made to be hard; where it is reached, `optimal` is False.
    """
    check_feasible(table, budget)
    capacity = budget.capacity(table.weights)
    uniform = best_uniform(table, budget)
    kept = [undominated(group, budget) for group in table.groups]
    cheapest = math.fsum(entries[0].loss for entries in kept)
    ceiling = cheapest if uniform is None else min(cheapest, uniform.loss)
    # a candidate that alone loses more than a known plan is in no best plan
    kept = [[entry for entry in entries if entry.loss <= ceiling] for entries in kept]
    rows, kept, shift = _scale(kept)
    found = search(rows, capacity, most_states)
    choice = tuple(entries[entry].place for entries, entry in zip(kept, found.entries, strict=True))
    bound = None if found.optimal else math.ldexp(found.bound, -shift)
    solution = price(table, budget, choice, bound)
    if uniform is not None and uniform.loss < solution.loss:  # by less than a step, or in a cut search
        return price(table, budget, uniform.choice, bound)
    return solution


def price(table: CostTable, budget: Budget, choice: Sequence[int], bound: float | None = None) -> Solution:
    """Sums of a choice; BudgetError if it does not fit. Without a bound it counts as optimal."""
    chosen = [group.candidates[index] for group, index in zip(table.groups, choice, strict=True)]
    pairs = list(zip(table.groups, chosen, strict=True))
    spent = sum(_cost(budget, group, candidate) for group, candidate in pairs)
    capacity = budget.capacity(table.weights)
    if spent > capacity:
        raise BudgetError(
            "the plan does not fit", where=str(budget), got=f"{spent} B", expected=f"{capacity} B"
        )
    loss = math.fsum(candidate.loss for candidate in chosen)
    return Solution(
        tuple(choice),
        sum(candidate.nbytes for group, candidate in pairs if group.counted),
        sum(candidate.stored for candidate in chosen),
        loss,
        loss if bound is None else min(bound, loss),
        bound is None,
    )


def check_feasible(table: CostTable, budget: Budget) -> None:
    """BudgetError if even the cheapest candidates together are too large."""
    least = sum(
        min(_cost(budget, group, candidate) for candidate in group.candidates) for group in table.groups
    )
    if least <= budget.capacity(table.weights):
        return
    if budget.kind == "size":
        least += budget.fixed
        got, expected = format_bytes(int(budget.limit)), f"at least {least}B ({format_bytes(least)})"
    else:
        thousandths = -(-least * 8 * 1000 // table.weights)
        got, expected = str(budget), f"at least {thousandths // 1000}.{thousandths % 1000:03d} bits"
    raise BudgetError(
        "no plan fits the budget",
        where=budget.kind,
        got=got,
        expected=expected,
        remedy="ask for that much, allow smaller candidates, or keep fewer tensors exact",
    )


def best_uniform(table: CostTable, budget: Budget) -> Solution | None:
    """The best plan that has one label wherever it is offered, or None where no such plan fits.

    The groups that do not offer the label all take the candidate they lose least with, or all their
    cheapest one; both count as plans. Of equally good plans the one with fewest bytes is taken, then the one
    whose label comes first. `optimal` is True: it is the best of its kind.
    """
    labels = sorted({candidate.label for group in table.groups for candidate in group.candidates})
    kept = [undominated(group, budget) for group in table.groups]
    offered = [{candidate.label: n for n, candidate in enumerate(group.candidates)} for group in table.groups]
    capacity = budget.capacity(table.weights)
    plans = []
    for label in labels:
        for end in (0, -1):
            options = zip(offered, kept, strict=True)
            choice = [places.get(label, entries[end].place) for places, entries in options]
            pairs = [(group, group.candidates[n]) for group, n in zip(table.groups, choice, strict=True)]
            cost = sum(_cost(budget, group, candidate) for group, candidate in pairs)
            if cost <= capacity:
                plans.append((math.fsum(candidate.loss for _, candidate in pairs), cost, label, choice))
    return price(table, budget, min(plans)[3]) if plans else None


def marginal_rate(table: CostTable, kind: Budget, spent: int) -> Fraction:
    """Loss that the next byte would win in the linear relaxation when `spent` bytes are used.

    Bytes count as in the given budget; its limit does not matter.
    """
    rows, _, shift = _scale([undominated(group, kind) for group in table.groups])
    capacity = max(spent, sum(row.costs[0] for row in rows))
    return relax(rows, capacity, steps(rows)).rate / Fraction(2) ** shift


def undominated(group: Group, budget: Budget) -> list[Entry]:
    """Candidates that no other one beats: costs strictly rise, losses strictly fall."""
    entries = sorted(
        Entry(_cost(budget, group, candidate), candidate.loss, candidate.stored, candidate.label, index)
        for index, candidate in enumerate(group.candidates)
    )
    return _falling(entries, [entry.loss for entry in entries])


def _falling(entries: Sequence[Entry], losses: Sequence[float]) -> list[Entry]:
    kept: list[Entry] = []
    least = math.inf
    for entry, loss in zip(entries, losses, strict=True):
        if loss < least:
            kept.append(entry)
            least = loss
    return kept


def _scale(kept: list[list[Entry]]) -> tuple[list[Row], list[list[Entry]], int]:
    """Rows with whole losses, the entries they are made of, and the power of two they were scaled with."""
    worst = math.fsum(max(entry.loss for entry in entries) for entries in kept)
    shift = _LOSS_BITS - math.frexp(worst)[1]
    rows, left = [], []
    for entries in kept:
        entries = _falling(entries, [_whole(entry.loss, shift) for entry in entries])
        costs = tuple(entry.cost for entry in entries)
        rows.append(Row(costs, tuple(_whole(entry.loss, shift) for entry in entries)))
        left.append(entries)
    return rows, left, shift


def _whole(loss: float, shift: int) -> int:
    return round(math.ldexp(loss, shift))


def _cost(budget: Budget, group: Group, candidate: Candidate) -> int:
    return budget.cost(group.counted, candidate.nbytes, candidate.stored)
