from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from higgsx.almpq import Budget, Candidate, CostTable, Group, Plan, explain, solve
from higgsx.errors import BudgetError, UsageError

BUDGET = Budget.of_bits("6")


@pytest.fixture
def plan(table: CostTable) -> Plan:
    return Plan.from_solution(table, solve(table, BUDGET), BUDGET)


def edited(plan: Plan, edit: Callable[[dict[str, Any]], object]) -> Plan:
    data: Any = copy.deepcopy(plan.to_json())
    edit(data)
    return Plan.from_json(data)


def chosen(plan: Plan) -> dict[str, str]:
    return {choice.name: choice.label for choice in plan.choices}


def test_a_plan_holds_what_was_solved(table: CostTable, plan: Plan) -> None:
    assert chosen(plan) == {"up": "eight", "norm": "bf16", "down": "four"}
    assert (plan.nbytes, plan.stored, plan.weights) == (1500, 1024 + 64 + 524, 2000)
    assert plan.bits == 6
    assert plan.loss == solve(table, BUDGET).loss
    assert (plan.source, plan.table, plan.unit) == (table.source, table.digest, table.unit)
    assert plan.choices[1].why == "too small to compress"
    assert plan.choices[1].members == ("norm.a", "norm.b")


def test_json_and_text_give_the_same_plan_back(plan: Plan) -> None:
    for again in (Plan.from_json(json.loads(json.dumps(plan.to_json()))), Plan.from_text(plan.to_text())):
        assert again == plan
    unbound = dataclasses.replace(plan, budget=None)
    assert Plan.from_text(unbound.to_text()) == unbound
    empty = Plan((), None, "s", "t")
    assert Plan.from_text(empty.to_text()) == empty


def test_the_text_is_the_json_with_one_line_per_group(plan: Plan) -> None:
    assert json.loads(plan.to_text()) == plan.to_json()
    for choice in plan.choices:
        assert sum(f'"name": "{choice.name}"' in line for line in plan.to_text().splitlines()) == 1


def test_no_floats_in_json(plan: Plan) -> None:
    def refuse(number: str) -> None:
        raise AssertionError(number)

    json.loads(plan.to_text(), parse_float=refuse)
    assert plan.to_json()["totals"] == {
        "bits": "6.000000",
        "nbytes": 1500,
        "stored": 1612,
        "weights": 2000,
        "loss": repr(plan.loss),
    }


def test_an_unedited_plan_resolves_to_itself(table: CostTable, plan: Plan) -> None:
    assert plan.resolve(table) == plan


def test_a_changed_label_is_enough(table: CostTable, plan: Plan) -> None:
    """Everything else in the file still says what the old label was."""
    other = edited(plan, lambda data: data["groups"][2].update(label="two")).resolve(table)
    row = table.groups[2].find("two")
    assert row is not None
    assert chosen(other) == {"up": "eight", "norm": "bf16", "down": "two"}
    assert (other.choices[2].params, other.choices[2].nbytes, other.choices[2].loss) == (
        row.params,
        250,
        row.loss,
    )
    assert other.nbytes == 1250
    assert other.choices[:2] == plan.choices[:2]


def test_a_plan_meets_a_newer_table(table: CostTable, plan: Plan) -> None:
    rows = tuple(dataclasses.replace(row, loss=row.loss / 2) for row in table.groups[0].candidates)
    first = dataclasses.replace(table.groups[0], candidates=rows)
    newer = CostTable((first, *table.groups[1:]), "other source", "samples")
    again = plan.resolve(newer)
    assert chosen(again) == chosen(plan)
    assert again.choices[0].loss == plan.choices[0].loss / 2
    assert (again.table, again.source) == (newer.digest, "other source")


def test_order_in_the_file_does_not_matter(table: CostTable, plan: Plan) -> None:
    assert edited(plan, lambda data: data["groups"].reverse()).resolve(table) == plan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data["groups"][0].update(name="upp"), "unknown group.*upp.*expected down, norm, up"),
        (lambda data: data["groups"].pop(1), "group is missing.*norm"),
        (lambda data: data["groups"][0].update(label="three"), "unknown label.*'three'.*two, four, eight"),
        (lambda data: data["groups"][0].update(members=["down"]), "other tensors"),
        (lambda data: data["groups"][0].update(params={"codec": "mine"}), "parameters that belong to no"),
    ],
)
def test_what_the_table_does_not_know_is_refused(
    table: CostTable, plan: Plan, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        edited(plan, edit).resolve(table)


def test_edited_parameters_are_priced(table: CostTable, plan: Plan) -> None:
    mine = {"codec": "three", "params": {"block": 32}}

    def price(group: Group, params: dict[str, Any]) -> Candidate:
        assert group.name == "up"
        if params != mine:
            raise UsageError("no such codec", where=group.name)
        return Candidate("three", 375, 384, 0.2, False, params)

    other = edited(plan, lambda data: data["groups"][0].update(label="three", params=mine)).resolve(
        table, price
    )
    assert (other.choices[0].label, other.choices[0].nbytes, other.choices[0].params) == ("three", 375, mine)
    with pytest.raises(UsageError, match="no such codec"):
        edited(plan, lambda data: data["groups"][0].update(params={})).resolve(table, price)
    with pytest.raises(UsageError, match="unknown label"):  # the parameters of "eight" are no reason to guess
        edited(plan, lambda data: data["groups"][0].update(label="three")).resolve(table, price)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("budget"), "plan: key is missing.*budget"),
        (lambda data: data.update(comment="x"), "unknown key.*comment"),
        (lambda data: data.update(version=7), "version"),
        (lambda data: data.update(unit="bananas"), "unit"),
        (lambda data: data["totals"].pop("bits"), "totals"),
        (lambda data: data["budget"].update(limit=6), "budget, limit: not a text"),
        (lambda data: data["budget"].update(kind="loss"), "kind of budget"),
        (lambda data: data["groups"].append(data["groups"][0]), "the same group twice.*'up'"),
        (lambda data: data["groups"][0].pop("params"), "group 0: key is missing.*params"),
        (lambda data: data["groups"][0].update(loss=0.5), "group 'up', loss"),
        (lambda data: data["groups"][0].update(params={"x": 0.5}), "group 'up', params|'eight', params"),
        (lambda data: data["groups"][0].update(weights=0), "without weights"),
        (lambda data: data.update(groups="none"), "not a list"),
    ],
)
def test_refused_json_names_the_place(
    plan: Plan, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        edited(plan, edit)


def test_a_trailing_comma_names_its_line(plan: Plan) -> None:
    broken = plan.to_text().replace("\n ]\n}", ",\n ]\n}")
    with pytest.raises(UsageError, match="not JSON.*line"):
        Plan.from_text(broken)


def test_an_edited_plan_over_its_budget_is_found(table: CostTable, plan: Plan) -> None:
    plan.require_budget()
    other = edited(plan, lambda data: data["groups"][2].update(label="eight")).resolve(table)
    with pytest.raises(BudgetError, match="got 2000 bytes, expected at most 1500"):
        other.require_budget()
    edited(other, lambda data: data.update(budget=None)).require_budget()


def test_explain_gives_both_neighbours_and_their_rates(table: CostTable, plan: Plan) -> None:
    text = explain(table, plan, 1)
    lines = text.splitlines()
    assert lines[1].startswith("down: four, 4.000 bits, 500 B, loss 0.00625 (97.0 %)")
    assert lines[2].startswith("  not sensitive, but large: a weight in eight costs 0.22 times")
    # 0.1 - 0.1/16 more loss for 250 bytes; 0.1/16 - 0.1/4096 less for 500
    assert "two saves 250 B, costs 0.0938: 375 per MB, 30 times the plan's rate" in lines[3]
    assert "eight takes 500 B, wins 0.00623: 12.5 per MB, 1 times the plan's rate" in lines[4]
    assert len(lines) == 5


def test_explain_shows_the_worst_first_and_the_reason_for_no_choice(table: CostTable, plan: Plan) -> None:
    heads = [line for line in explain(table, plan).splitlines()[1:] if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in heads] == ["down", "up", "norm"]
    assert heads[2].endswith("(too small to compress)")


def test_explain_names_no_rate_where_everything_is_at_its_best(table: CostTable) -> None:
    budget = Budget.of_size(10**6)
    text = explain(table, Plan.from_solution(table, solve(table, budget), budget))
    assert "would win 0" in text
    assert "dearer" not in text
    assert "plan's rate" not in text
