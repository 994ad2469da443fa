"""The multiple-choice knapsack in whole numbers: one entry of every row, least loss, within a capacity.

Lower bounds come from the linear relaxation, which for this problem is a merge of convex hulls (Sinha and
Zoltners, "The multiple-choice knapsack problem", Operations Research 27, 1979). The exact optimum comes
from dynamic programming over undominated (cost, loss) pairs with those bounds, as in Pisinger, "A minimal
algorithm for the multiple-choice knapsack problem", European Journal of Operational Research 83, 1995.
All sums are integers, so the result depends neither on the machine nor on the version of a library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

MOST_STATES = 20_000
"""Pairs kept per row before the search stops being exact; tables of models need up to a few thousand."""


class Row(NamedTuple):
    """Entries of one group that no other entry beats: costs strictly rise, losses strictly fall."""

    costs: tuple[int, ...]
    losses: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """entries  one per row
    bound    no choice within the capacity has a smaller loss than this
    optimal  whether `entries` is proved to be the best
    """

    entries: tuple[int, ...]
    bound: int
    optimal: bool


class Step(NamedTuple):
    """One edge of a row's convex hull: `cost` more takes `loss` away."""

    row: int
    entry: int  # the entry at the dearer end
    cost: int
    loss: int


def hull(row: Row) -> list[int]:
    """Entries on the lower convex hull of (cost, loss), cheapest first."""
    kept: list[int] = []
    for entry in range(len(row.costs)):
        while len(kept) > 1 and _above(row, kept[-2], kept[-1], entry):
            kept.pop()
        kept.append(entry)
    return kept


def _above(row: Row, left: int, middle: int, right: int) -> bool:
    first = (row.losses[left] - row.losses[middle]) * (row.costs[right] - row.costs[middle])
    second = (row.losses[middle] - row.losses[right]) * (row.costs[middle] - row.costs[left])
    return first <= second


def steps(rows: Sequence[Row]) -> list[Step]:
    """Every edge of every hull, the one that wins most loss per cost first; ties in the order of the rows."""
    edges = []
    for number, row in enumerate(rows):
        corners = hull(row)
        for low, high in zip(corners, corners[1:], strict=False):
            cost, loss = row.costs[high] - row.costs[low], row.losses[low] - row.losses[high]
            edges.append(Step(number, high, cost, loss))
    return sorted(edges, key=lambda step: (-Fraction(step.loss, step.cost), step.row))


class Relaxed(NamedTuple):
    """bound    least loss of the linear relaxation, rounded up
    rate     loss that one more unit of capacity would win there; 0 where everything is at its best
    entries  a whole choice that fits: the relaxation rounded down, then filled up in the order of the steps
    """

    bound: int
    rate: Fraction
    entries: tuple[int, ...]


def relax(rows: Sequence[Row], capacity: int, edges: Sequence[Step]) -> Relaxed:
    """The linear relaxation, from `steps(rows)`. The cheapest entries together must fit the capacity."""
    entries = [0] * len(rows)
    left = capacity - sum(row.costs[0] for row in rows)
    bound, rate = Fraction(sum(row.losses[0] for row in rows)), Fraction(0)
    stopped: set[int] = set()
    for step in edges:
        if rate == 0:
            share = min(Fraction(1), Fraction(left, step.cost))
            bound -= share * step.loss
            if share < 1:
                rate = Fraction(step.loss, step.cost)
        if step.row not in stopped and step.cost <= left:
            entries[step.row] = step.entry
            left -= step.cost
        else:
            stopped.add(step.row)
    return Relaxed(-(-bound.numerator // bound.denominator), rate, tuple(entries))


def search(rows: Sequence[Row], capacity: int, most_states: int = MOST_STATES) -> Found:
    """Least loss; among equal ones least cost; among these the one whose first rows have the dearest entries.

    The cheapest entries together must fit the capacity; the dearest together must stay below 2^53 and the
    worst losses together below 2^62. Where more than `most_states` pairs of a row could still lead to the
    optimum, only the best by bound go on, and `optimal` is False unless the bound is met.
    """
    edges = steps(rows)
    relaxed = relax(rows, capacity, edges)
    known = total(rows, relaxed.entries)
    gap = known - relaxed.bound
    capacity = min(capacity, sum(row.costs[-1] for row in rows))  # fits 64 bits from here on
    allowed = gap >> 8  # most optima lie close to the bound: a narrow search first, then wider ones
    while True:
        attempt = _Attempt(rows, edges, capacity, relaxed.bound + allowed, most_states)
        entries = attempt.run()
        if entries is not None:
            loss = total(rows, entries)
            proved = attempt.complete or loss == relaxed.bound
            return Found(entries, loss if proved else relaxed.bound, proved)
        if allowed == gap:  # only an incomplete search misses what is known
            return Found(relaxed.entries, relaxed.bound, False)
        allowed = min(gap, max(1, allowed * 4)) if attempt.complete else gap


def total(rows: Sequence[Row], entries: Sequence[int]) -> int:
    return sum(row.losses[entry] for row, entry in zip(rows, entries, strict=True))


class _Attempt:
    """One pass that keeps every choice with a loss of at most `ceiling`, if it stays `complete`.

    The rows are worked off from the last to the first; `levels[n]` holds the undominated sums over the rows
    from n on. So the choice can be read off from the first row, the dearest entry before the others.
    """

    def __init__(
        self, rows: Sequence[Row], edges: Sequence[Step], capacity: int, ceiling: int, most_states: int
    ) -> None:
        self.rows, self.capacity, self.ceiling, self.most_states = rows, capacity, ceiling, most_states
        self.complete = True
        self.edge_row = np.array([step.row for step in edges], np.int64)
        self.edge_cost = np.array([step.cost for step in edges], np.int64)
        self.edge_loss = np.array([step.loss for step in edges], np.int64)
        self.least_cost = np.cumsum([0, *(row.costs[0] for row in rows)])
        self.most_loss = np.cumsum([0, *(row.losses[0] for row in rows)])
        # bounds are computed in floats: what rounding could have raised above the ceiling is kept
        self.margin = 1 + 1e-14 * float(self.most_loss[-1])

    def run(self) -> tuple[int, ...] | None:
        """The best choice, or None where none is within the ceiling."""
        cost = loss = np.zeros(1, np.int64)
        levels = [(cost, loss)]
        for number in reversed(range(len(self.rows))):
            cost, loss = self._extend(number, cost, loss)
            levels.append((cost, loss))
            if not len(cost):
                return None
        if loss[-1] > self.ceiling:
            return None
        return self._read_off(levels[::-1])

    def _extend(self, number: int, cost: Ints, loss: Ints) -> tuple[Ints, Ints]:
        """Every pair with every entry of a row, less what does not fit, is too bad, or is beaten."""
        row = self.rows[number]
        if len(row.costs) == 1:
            return cost + row.costs[0], loss + row.losses[0]
        cost = (cost[:, None] + np.array(row.costs, np.int64)).ravel()
        loss = (loss[:, None] + np.array(row.losses, np.int64)).ravel()
        bound = loss + self._rest(number, self.capacity - cost)
        keep = (cost <= self.capacity - self.least_cost[number]) & (bound <= self.ceiling + self.margin)
        cost, loss, bound = cost[keep], loss[keep], bound[keep]
        order = np.lexsort((loss, cost))
        cost, loss, bound = cost[order], loss[order], bound[order]
        keep = np.ones(len(loss), bool)
        keep[1:] = loss[1:] < np.minimum.accumulate(loss)[:-1]
        cost, loss, bound = cost[keep], loss[keep], bound[keep]
        if len(cost) > self.most_states:
            self.complete = False
            best = np.sort(np.argsort(bound, kind="stable")[: self.most_states])
            cost, loss = cost[best], loss[best]
        return cost, loss

    def _rest(self, number: int, capacity: Ints) -> npt.NDArray[np.float64]:
        """Relaxed loss of the rows before `number` at each capacity."""
        mine = self.edge_row < number
        spent = self.least_cost[number] + np.concatenate(([0], np.cumsum(self.edge_cost[mine])))
        left = self.most_loss[number] - np.concatenate(([0], np.cumsum(self.edge_loss[mine])))
        return np.interp(capacity, spent, left)

    def _read_off(self, levels: Sequence[tuple[Ints, Ints]]) -> tuple[int, ...]:
        """Go down from the best sum over all rows to the sums it came from."""
        cost, loss = int(levels[0][0][-1]), int(levels[0][1][-1])
        entries = []
        for row, (costs, losses) in zip(self.rows, levels[1:], strict=True):
            for entry in reversed(range(len(row.costs))):
                rest = (cost - row.costs[entry], loss - row.losses[entry])
                place = int(np.searchsorted(costs, rest[0]))
                if place < len(costs) and (int(costs[place]), int(losses[place])) == rest:
                    break
            entries.append(entry)
            cost, loss = rest
        return tuple(entries)
