from __future__ import annotations

import copy
import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgsx.almpq import Budget, Candidate, CostTable, Group
from higgsx.errors import UsageError


def candidate(**changes: Any) -> Candidate:
    fields: dict[str, Any] = {
        "label": "a", "nbytes": 10, "stored": 64, "loss": 0.5, "exact": False, "params": {"codec": "x"}
    }  # fmt: skip
    return Candidate(**{**fields, **changes})


def group(**changes: Any) -> Group:
    fields: dict[str, Any] = {
        "name": "g", "members": ("g",), "weights": 8, "counted": True, "candidates": (candidate(),)
    }  # fmt: skip
    return Group(**{**fields, **changes})


def test_json_and_text_give_the_same_table_and_digest_back(table: CostTable) -> None:
    for again in (
        CostTable.from_json(json.loads(json.dumps(table.to_json()))),
        CostTable.from_text(table.to_text()),
    ):
        assert again == table
        assert again.digest == table.digest


def test_groups_stand_in_the_order_of_execution_whatever_the_input(table: CostTable) -> None:
    assert [group.name for group in table.groups] == ["up", "norm", "down"]
    turned = CostTable(table.groups[::-1], table.source, table.constants)
    assert turned == table
    assert turned.digest == table.digest


def test_groups_of_one_place_stand_in_the_order_of_their_names() -> None:
    made = [group(name=name, members=(name,), order=3) for name in ("b", "c", "a")]
    assert [group.name for group in CostTable(tuple(made), "s").groups] == ["a", "b", "c"]


@given(st.floats(min_value=0, max_value=1e100))
def test_losses_survive_as_decimal_strings_bit_for_bit(loss: float) -> None:
    row = candidate(loss=loss).to_json()
    assert isinstance(row["loss"], str)
    assert Candidate.from_json(row).loss == loss


def test_whole_and_negative_zero_losses_have_one_spelling() -> None:
    assert candidate(loss=-0.0).to_json() == candidate(loss=0).to_json() == candidate(loss=0.0).to_json()


@pytest.mark.parametrize(
    "path",
    [
        ("source",),
        ("constants",),
        ("unit",),
        ("groups", 0, "why"),
        ("groups", 0, "weights"),
        ("groups", 0, "candidates", 0, "loss"),
        ("groups", 0, "candidates", 0, "params"),
    ],
)
def test_digest_covers_every_value(table: CostTable, path: tuple[Any, ...]) -> None:
    data: Any = copy.deepcopy(table.to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    changed = {"unit": "relative squared error", "loss": "0.25", "params": {}, "weights": 999}
    place[path[-1]] = changed.get(path[-1], "other")
    assert CostTable.from_json(data).digest != table.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"label": ""},
        {"nbytes": -1},
        {"nbytes": 10.0},
        {"nbytes": True},
        {"stored": 9},
        {"loss": -1e-9},
        {"loss": float("nan")},
        {"loss": float("inf")},
        {"loss": "0.5"},
        {"exact": True},
        {"exact": 1},
        {"params": {"factor": 0.5}},
        {"params": {"nested": [{"factor": 0.5}]}},
        {"params": {1: "x"}},
        {"params": []},
    ],
)  # fmt: skip
def test_refused_candidates(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        candidate(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"members": ()}, "members are missing"),
        ({"members": ("g", "g")}, "named twice"),
        ({"weights": 0}, "without weights"),
        ({"candidates": ()}, "without candidates"),
        ({"candidates": (candidate(), candidate(nbytes=1))}, "the same label twice"),
        ({"order": -1}, "order"),
    ],
)
def test_refused_groups(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        group(**changes)


def test_names_and_tensors_are_unique_in_a_table() -> None:
    with pytest.raises(UsageError, match="the same group twice.*'g'"):
        CostTable((group(), group(members=("h",))), "s")
    with pytest.raises(UsageError, match="the same tensor in two groups.*'g'"):
        CostTable((group(), group(name="h")), "s")
    with pytest.raises(UsageError, match="unit"):
        CostTable((), "s", unit="bananas")
    with pytest.raises(UsageError, match="too many bytes"):
        CostTable((group(candidates=(candidate(stored=1 << 53),)),), "s")


Edit = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("source"), "key is missing.*source"),
        (lambda data: data.update(extra=1), "unknown key.*extra"),
        (lambda data: data.update(version=1), "version"),
        (lambda data: data.update(groups={}), "not a list"),
        (lambda data: data["groups"][0].pop("why"), "group 0: key is missing.*why"),
        (lambda data: data["groups"][0].update(members="up"), "group 'up', members: not a list"),
        (lambda data: data["groups"][0]["candidates"][1].update(loss=0.5), "group 'up', candidate 1, loss"),
        (lambda data: data["groups"][0]["candidates"][1].update(loss="1e999"), "not a decimal"),
        (lambda data: data["groups"][0]["candidates"][1].update(loss="nan"), "not a decimal"),
        (lambda data: data["groups"][0]["candidates"][1].update(loss="-1"), "not a decimal"),
        (lambda data: data["groups"][0]["candidates"][1].update(nbytes="7"), "nbytes: not a whole number"),
        (lambda data: data["groups"][0]["candidates"][1].update(exact=0), "neither true nor false"),
    ],
)
def test_refused_json_names_the_place(table: CostTable, edit: Edit, message: str) -> None:
    data: Any = copy.deepcopy(table.to_json())
    edit(data)
    with pytest.raises(UsageError, match=message):
        CostTable.from_json(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON.*line 1"),
        ('{"a": 1, "a": 2}', "the same key twice"),
        ('{"a": 1.5}', "not a whole number"),
        ('{"a": NaN}', "not a whole number"),
        (f'{{"a": {"9" * 5000}}}', "not a whole number"),
        ("[" * 200000, "nested too deep"),
        ("[]", "not an object"),
    ],
)
def test_refused_text(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CostTable.from_text(text)


def test_bits_count_payloads_of_counted_groups_exactly() -> None:
    budget = Budget.of_bits("4.1")
    assert budget.limit == Fraction(41, 10) == Budget.of_bits(4.1).limit
    assert budget.capacity(80) == 41
    assert budget.capacity(79) == 40
    assert (budget.cost(True, 10, 64), budget.cost(False, 10, 64)) == (10, 0)


def test_size_counts_stored_bytes_of_all_groups_and_the_fixed_part() -> None:
    budget = Budget.of_size(1000, fixed=300)
    assert budget.capacity(80) == 700
    assert (budget.cost(True, 10, 64), budget.cost(False, 10, 64)) == (64, 64)


@given(st.fractions(min_value="1/1000", max_value=64, max_denominator=10**6), st.integers(0, 10**12))
def test_budgets_survive_json(limit: Fraction, fixed: int) -> None:
    budget = Budget("bits", limit, fixed)
    assert Budget.from_json(json.loads(json.dumps(budget.to_json()))) == budget


def test_decimal_budgets_are_written_as_decimals() -> None:
    assert Budget.of_bits("4.25").to_json()["limit"] == "4.25"
    assert Budget.of_bits("0.05").to_json()["limit"] == "0.05"
    assert Budget.of_bits(Fraction(13, 3)).to_json()["limit"] == "13/3"
    assert Budget.of_size(800).to_json()["limit"] == "800"


@pytest.mark.parametrize("text", ["", "-4", "4e3", "0", "1/0", "4,5", "nan", "1/2/3", "٣/٤", "9" * 50, "4."])
def test_refused_budgets(text: str) -> None:
    with pytest.raises(UsageError):
        Budget.of_bits(text)


def test_refused_budget_fields() -> None:
    with pytest.raises(UsageError, match="kind"):
        Budget("loss", Fraction(1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="whole number of bytes"):
        Budget("size", Fraction(1, 2))
    with pytest.raises(UsageError, match="fixed"):
        Budget("size", Fraction(1), -1)
