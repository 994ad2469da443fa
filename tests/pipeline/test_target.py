"""The loop of `max_kl`: what is encoded, how predictions are corrected, when it gives up."""

from __future__ import annotations

import pytest

from higgsx.almpq.least import least_bytes, rescaled
from higgsx.almpq.plan import Plan
from higgsx.almpq.table import Candidate, CostTable, Group
from higgsx.errors import DamageError, UsageError
from higgsx.fidelity.report import NotMeasured
from higgsx.pipeline.target import OverTarget, require_within, within_loss


def table(losses: dict[str, list[tuple[int, float]]]) -> CostTable:
    groups = []
    for order, (name, rows) in enumerate(losses.items()):
        made = [Candidate("exact", 64_000, 64_000, 0.0, True, {})]
        made += [Candidate(f"{n}", n, n, loss, False, {}) for n, loss in rows]
        groups.append(Group(name, (name,), 1000, True, tuple(made), "", order))
    return CostTable(tuple(groups), "model")


TABLE = table({
    "a": [(1000, 0.9), (2000, 0.2), (3000, 0.05), (4000, 0.01)],
    "b": [(1000, 0.3), (2000, 0.08), (3000, 0.02), (4000, 0.005)],
    "c": [(1000, 0.1), (2000, 0.03), (3000, 0.007), (4000, 0.002)],
})  # fmt: skip


def every_plan(most: float) -> int:
    """Fewest bytes within the loss, by trying everything."""
    best = None
    a, b, c = (group.candidates for group in TABLE.groups)
    for one in a:
        for two in b:
            for three in c:
                if one.loss + two.loss + three.loss <= most:
                    stored = one.stored + two.stored + three.stored
                    best = stored if best is None else min(best, stored)
    assert best is not None
    return best


@pytest.mark.parametrize("most", [0.001, 0.0075, 0.03, 0.17, 0.5, 1.31, 5.0])
def test_least_bytes_is_the_least(most: float) -> None:
    found = least_bytes(TABLE, most)
    assert found.loss <= most
    assert found.stored == every_plan(most)
    assert found.optimal


def test_no_loss_to_stay_below() -> None:
    with pytest.raises(UsageError, match="not a loss"):
        least_bytes(TABLE, 0.0)


def test_a_plan_that_measures_well_is_taken_at_once() -> None:
    seen: list[Plan] = []
    result = within_loss(TABLE, 0.2, lambda plan, most: seen.append(plan) or "done")
    assert result == "done"
    assert len(seen) == 1
    assert seen[0].loss <= 0.2


def test_predictions_are_corrected_by_what_was_measured() -> None:
    """Everything costs three times what was predicted: the second plan is within."""
    seen: list[Plan] = []

    def encode(plan: Plan, most: float) -> Plan:
        seen.append(plan)
        measured = 3 * sum(TABLE.groups[n].find(c.label).loss for n, c in enumerate(plan.choices))
        if measured > most:
            raise OverTarget(measured)
        return plan

    found = within_loss(TABLE, 0.3, encode)
    assert len(seen) == 2
    assert found.table != seen[0].table  # the correction is part of the table's digest
    assert found.stored > seen[0].stored
    assert found.loss == pytest.approx(3 * sum(
        TABLE.groups[n].find(choice.label).loss for n, choice in enumerate(found.choices)
    ), rel=1e-4)  # fmt: skip


def test_gives_up_after_three_and_names_what_was_reached() -> None:
    measured = iter([0.9, 0.5, 0.7])

    def encode(plan: Plan, most: float) -> None:
        raise OverTarget(next(measured))

    with pytest.raises(DamageError, match=r"after 3 attempts, got 0\.5 nats per token at"):
        within_loss(TABLE, 0.3, encode)
    assert next(measured, None) is None


def test_nothing_measured_is_no_success() -> None:
    with pytest.raises(DamageError, match="was not measured"):
        require_within(NotMeasured("no tokenizer"), 0.1)


def test_rescaled_keeps_everything_but_losses() -> None:
    other = rescaled(TABLE, 2.0, "measured twice")
    assert other.digest != TABLE.digest
    assert other.constants.endswith("measured twice")
    for mine, its in zip(TABLE.groups, other.groups, strict=True):
        for one, two in zip(mine.candidates, its.candidates, strict=True):
            assert (one.label, one.stored, one.exact) == (two.label, two.stored, two.exact)
            assert two.loss == pytest.approx(2 * one.loss)
