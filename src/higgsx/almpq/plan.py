"""A plan: one candidate for each group, as a file that a person may read, edit and run again.

To edit one, change a group's `label` to another label of that group's row in the cost table. Parameters,
bytes and losses are looked up anew by `Plan.resolve`, and totals are always computed, never read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from higgsx.almpq import strict
from higgsx.almpq.budget import Budget
from higgsx.almpq.solve import Solution
from higgsx.almpq.table import UNITS, VERSION, Candidate, CostTable, Group, check_version, refuse_twice
from higgsx.errors import BudgetError, UsageError

NOTE = "To change a choice, change its label and run again; params, bytes, loss and totals are looked up."

_GROUP_KEYS = ("name", "members", "weights", "counted", "why")
_CANDIDATE_KEYS = ("label", "nbytes", "stored", "loss", "exact", "params")

Pricer = Callable[[Group, dict[str, strict.Json]], Candidate]
"""Gives bytes and predicted loss for parameters that are in no row of the table, or raises a HiggsxError."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for one group. Fields as in `Group` and `Candidate`."""

    name: str
    members: tuple[str, ...]
    weights: int
    counted: bool
    why: str
    label: str
    nbytes: int
    stored: int
    loss: float
    exact: bool
    params: dict[str, strict.Json]

    @classmethod
    def of(cls, group: Group, candidate: Candidate) -> Choice:
        row = {key: getattr(candidate, key) for key in _CANDIDATE_KEYS}
        return cls(group.name, group.members, group.weights, group.counted, group.why, **row)

    @property
    def bits(self) -> Fraction:
        """Payload bits of one weight."""
        return Fraction(self.nbytes * 8, self.weights)

    def to_json(self) -> dict[str, strict.Json]:
        return {
            "name": self.name,
            "label": self.label,
            "nbytes": self.nbytes,
            "stored": self.stored,
            "loss": repr(self.loss),
            "exact": self.exact,
            "params": self.params,
            "why": self.why,
            "weights": self.weights,
            "counted": self.counted,
            "members": list(self.members),
        }

    @classmethod
    def from_json(cls, data: object, where: str) -> Choice:
        taken = strict.fields(data, where, (*_GROUP_KEYS, *_CANDIDATE_KEYS))
        where = f"plan, group {strict.text(taken['name'], f'{where}, name')!r}"
        candidate = Candidate.from_json({key: taken[key] for key in _CANDIDATE_KEYS}, where)
        group = Group(
            strict.text(taken["name"], where),
            strict.texts(taken["members"], f"{where}, members"),
            strict.whole(taken["weights"], f"{where}, weights"),
            strict.flag(taken["counted"], f"{where}, counted"),
            (candidate,),
            strict.text(taken["why"], f"{where}, why"),
        )
        return cls.of(group, candidate)


@dataclass(frozen=True)
class Plan:
    """choices  one per group, in the order of execution
    budget   what the plan was made for, or None (a plan written by hand)
    source   fingerprint of the model, from the cost table
    table    digest of the cost table
    unit     of every loss
    """

    choices: tuple[Choice, ...]
    budget: Budget | None
    source: str
    table: str
    unit: str = UNITS[0]

    def __post_init__(self) -> None:
        refuse_twice((choice.name for choice in self.choices), "the same group twice", "plan")

    @property
    def nbytes(self) -> int:
        """Payload bytes of the counted groups."""
        return sum(choice.nbytes for choice in self.choices if choice.counted)

    @property
    def stored(self) -> int:
        """Bytes of all groups in the file; the fixed part of the file is not in it."""
        return sum(choice.stored for choice in self.choices)

    @property
    def weights(self) -> int:
        return sum(choice.weights for choice in self.choices if choice.counted)

    @property
    def loss(self) -> float:
        """Predicted, never measured."""
        return math.fsum(choice.loss for choice in self.choices)

    @property
    def bits(self) -> Fraction:
        """Average payload bits of a counted weight, exactly; 0 where there is none."""
        return Fraction(self.nbytes * 8, self.weights) if self.weights else Fraction(0)

    def require_budget(self) -> None:
        """BudgetError if an edited plan takes more than the budget it names."""
        if self.budget is None:
            return
        spent = sum(self.budget.cost(choice.counted, choice.nbytes, choice.stored) for choice in self.choices)
        capacity = self.budget.capacity(self.weights)
        if spent > capacity:
            raise BudgetError(
                "the plan is over its budget",
                where=str(self.budget),
                got=f"{spent} bytes",
                expected=f"at most {capacity}",
                remedy='choose smaller candidates, or set "budget" to null in the plan',
            )

    @classmethod
    def from_solution(cls, table: CostTable, solution: Solution, budget: Budget | None) -> Plan:
        pairs = zip(table.groups, solution.choice, strict=True)
        choices = tuple(Choice.of(group, group.candidates[index]) for group, index in pairs)
        return cls(choices, budget, table.source, table.digest, table.unit)

    def resolve(self, table: CostTable, price: Pricer | None = None) -> Plan:
        """This plan with everything but the labels looked up in a table, which may be a newer one.

        The label decides. Parameters that belong to no candidate of the group were edited: `price` is asked
        for them, and without it they are refused. UsageError for an unknown or missing group, other tensors
        in a group, or an unknown label.
        """
        mine = {choice.name: choice for choice in self.choices}
        names = {group.name for group in table.groups}
        unknown = sorted(set(mine) - names)
        if unknown:
            raise UsageError("unknown group", where="plan", got=_list(unknown), expected=_list(sorted(names)))
        missing = [group.name for group in table.groups if group.name not in mine]
        if missing:
            raise UsageError("group is missing", where="plan", expected=_list(missing))
        choices = tuple(_resolve(mine[group.name], group, price) for group in table.groups)
        return dataclasses.replace(
            self, choices=choices, source=table.source, table=table.digest, unit=table.unit
        )

    def to_json(self) -> dict[str, strict.Json]:
        return {
            "version": VERSION,
            "note": NOTE,
            "budget": None if self.budget is None else self.budget.to_json(),
            "totals": {
                "bits": f"{float(self.bits):.6f}",
                "nbytes": self.nbytes,
                "stored": self.stored,
                "weights": self.weights,
                "loss": repr(self.loss),
            },
            "unit": self.unit,
            "source": self.source,
            "table": self.table,
            "groups": [choice.to_json() for choice in self.choices],
        }

    @classmethod
    def from_json(cls, data: object) -> Plan:
        """The inverse of `to_json`. UsageError names the group and the key that is wrong."""
        names = ("version", "note", "budget", "totals", "unit", "source", "table", "groups")
        taken = strict.fields(data, "plan", names)
        check_version(taken["version"], "plan")
        strict.text(taken["note"], "plan, note")
        strict.fields(taken["totals"], "plan, totals", ("bits", "nbytes", "stored", "weights", "loss"))
        unit = strict.text(taken["unit"], "plan, unit")
        if unit not in UNITS:
            raise UsageError("unknown unit of loss", where="plan", got=repr(unit), expected=UNITS)
        groups = strict.items(taken["groups"], "plan, groups")
        return cls(
            tuple(Choice.from_json(group, f"plan, group {number}") for number, group in enumerate(groups)),
            None if taken["budget"] is None else Budget.from_json(taken["budget"], "plan, budget"),
            strict.text(taken["source"], "plan, source"),
            strict.text(taken["table"], "plan, table"),
            unit,
        )

    def to_text(self) -> str:
        """One line per group, so that an edit is one line in a comparison."""
        data = self.to_json()
        groups = data.pop("groups")
        head = json.dumps(data, indent=1, ensure_ascii=True).removesuffix("\n}")
        lines = ",\n".join(f"  {json.dumps(group, ensure_ascii=True)}" for group in groups)  # type: ignore[union-attr]
        return f'{head},\n "groups": [\n{lines}\n ]\n}}\n'

    @classmethod
    def from_text(cls, text: str) -> Plan:
        return cls.from_json(strict.parse(text, "plan"))


def _resolve(choice: Choice, group: Group, price: Pricer | None) -> Choice:
    where = f"plan, group {group.name!r}"
    if set(choice.members) != set(group.members):
        got, expected = _list(choice.members), _list(group.members)
        raise UsageError("other tensors than the model's", where=where, got=got, expected=expected)
    candidate = group.find(choice.label)
    known = any(choice.params == other.params for other in group.candidates)
    if candidate is not None and known:
        return Choice.of(group, candidate)
    if price is not None and not known:
        return Choice.of(group, price(group, choice.params))
    if candidate is None:
        labels = [other.label for other in group.candidates]
        raise UsageError("unknown label", where=where, got=repr(choice.label), expected=_list(labels))
    raise UsageError(
        "parameters that belong to no candidate",
        where=where,
        got=repr(choice.params)[:200],
        expected=repr(candidate.params)[:200],
        remedy="choose by label",
    )


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:40])
    return shown if len(names) <= 40 else f"{shown} and {len(names) - 40} more"
