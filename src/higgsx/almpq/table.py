"""The cost table: every candidate of every group with its bytes and its predicted loss.

It is saved, so that the next budget costs seconds, and its digest names everything that steered a plan.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from higgsx.almpq import strict
from higgsx.errors import UsageError

VERSION = 0
UNITS = ("nats per token", "relative squared error")
MOST_BYTES = 1 << 53
"""All candidates of a table at their largest stay below this, so that sums are exact everywhere."""
MOST_LOSS = 1e100


@dataclass(frozen=True)
class Candidate:
    """One way to store a group.

    label   unique within the group; the same label in two groups means the same choice
    nbytes  bytes of the payloads, what the budget "bits" counts
    stored  bytes in the file: each array rounded up to its alignment
    loss    predicted, from 0, in the table's unit
    exact   kept bit for bit; its loss is 0
    params  codec, parameters and transform: JSON without floats, opaque here
    """

    label: str
    nbytes: int
    stored: int
    loss: float
    exact: bool
    params: dict[str, strict.Json]

    def __post_init__(self) -> None:
        where = f"candidate {self.label!r}"
        if not isinstance(self.label, str) or not self.label:
            raise UsageError("a candidate needs a label", got=repr(self.label))
        strict.whole(self.nbytes, f"{where}, nbytes")
        strict.whole(self.stored, f"{where}, stored")
        strict.flag(self.exact, f"{where}, exact")
        if self.stored < self.nbytes:
            raise UsageError("stored is less than nbytes", where=where, got=self.stored, expected=self.nbytes)
        if not isinstance(self.loss, (int, float)) or not 0 <= self.loss <= MOST_LOSS:
            raise UsageError("not a loss", where=where, got=self.loss, expected=f"0 to {MOST_LOSS}")
        if self.exact and self.loss != 0:
            raise UsageError("what is exact loses nothing", where=where, got=self.loss, expected=0)
        if not isinstance(self.params, dict):
            raise UsageError("parameters are no object", where=where, got=repr(self.params)[:80])
        strict.check_opaque(self.params, f"{where}, params")
        object.__setattr__(self, "loss", float(self.loss) + 0.0)  # whole numbers and -0.0 have one spelling

    def to_json(self) -> dict[str, strict.Json]:
        return {
            "label": self.label,
            "nbytes": self.nbytes,
            "stored": self.stored,
            "loss": repr(self.loss),
            "exact": self.exact,
            "params": self.params,
        }

    @classmethod
    def from_json(cls, data: object, where: str = "candidate") -> Candidate:
        taken = strict.fields(data, where, ("label", "nbytes", "stored", "loss", "exact", "params"))
        return cls(
            strict.text(taken["label"], f"{where}, label"),
            strict.whole(taken["nbytes"], f"{where}, nbytes"),
            strict.whole(taken["stored"], f"{where}, stored"),
            strict.decimal(taken["loss"], f"{where}, loss"),
            strict.flag(taken["exact"], f"{where}, exact"),
            taken["params"],  # type: ignore[arg-type]  # checked by the constructor
        )


@dataclass(frozen=True)
class Group:
    """Tensors that share one choice: tied copies, or the experts of one stacked tensor.

    name        unique in the table
    members     names of the tensors; no tensor is in two groups
    weights     how many numbers the group stores (tied copies count once)
    counted     whether bytes and weights are in "bits": tensors of two or more dimensions
    candidates  at least one
    why         reason why there is only one candidate, or ""
    order       place in the order of execution; equal places go by name
    """

    name: str
    members: tuple[str, ...]
    weights: int
    counted: bool
    candidates: tuple[Candidate, ...]
    why: str = ""
    order: int = 0

    def __post_init__(self) -> None:
        where = f"group {self.name!r}"
        if not isinstance(self.name, str) or not self.name:
            raise UsageError("a group needs a name", got=repr(self.name))
        if not self.members or len(set(self.members)) != len(self.members):
            raise UsageError("members are missing or named twice", where=where, got=self.members)
        if strict.whole(self.weights, f"{where}, weights") == 0:
            raise UsageError("a group without weights", where=where)
        strict.flag(self.counted, f"{where}, counted")
        strict.whole(self.order, f"{where}, order")
        if not self.candidates:
            raise UsageError("a group without candidates", where=where)
        refuse_twice((candidate.label for candidate in self.candidates), "the same label twice", where)

    def find(self, label: str) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.label == label), None)

    def to_json(self) -> dict[str, strict.Json]:
        return {
            "name": self.name,
            "members": list(self.members),
            "weights": self.weights,
            "counted": self.counted,
            "order": self.order,
            "why": self.why,
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    @classmethod
    def from_json(cls, data: object, where: str = "group") -> Group:
        names = ("name", "members", "weights", "counted", "order", "why", "candidates")
        taken = strict.fields(data, where, names)
        name = strict.text(taken["name"], f"{where}, name")
        where = f"group {name!r}"
        rows = strict.items(taken["candidates"], f"{where}, candidates")
        return cls(
            name,
            strict.texts(taken["members"], f"{where}, members"),
            strict.whole(taken["weights"], f"{where}, weights"),
            strict.flag(taken["counted"], f"{where}, counted"),
            tuple(Candidate.from_json(row, f"{where}, candidate {n}") for n, row in enumerate(rows)),
            strict.text(taken["why"], f"{where}, why"),
            strict.whole(taken["order"], f"{where}, order"),
        )


def refuse_twice(names: object, what: str, where: str | None = None) -> None:
    """UsageError if a name occurs twice."""
    counts = Counter(names)  # type: ignore[call-overload]
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise UsageError(what, where=where, got=", ".join(map(repr, twice[:5])))


@dataclass(frozen=True)
class CostTable:
    """groups     kept in the order of execution, in whatever order they are given
    source     fingerprint of the model that the table was made from
    constants  note on where distortions and losses come from
    unit       one of `UNITS`
    """

    groups: tuple[Group, ...]
    source: str
    constants: str = ""
    unit: str = UNITS[0]

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError("unknown unit of loss", where="cost table", got=repr(self.unit), expected=UNITS)
        refuse_twice((group.name for group in self.groups), "the same group twice", "cost table")
        members = (member for group in self.groups for member in group.members)
        refuse_twice(members, "the same tensor in two groups", "cost table")
        largest = sum(max(candidate.stored for candidate in group.candidates) for group in self.groups)
        if largest >= MOST_BYTES:
            raise UsageError(
                "too many bytes", where="cost table", got=largest, expected=f"under {MOST_BYTES}"
            )
        ordered = tuple(sorted(self.groups, key=lambda group: (group.order, group.name)))
        object.__setattr__(self, "groups", ordered)

    @property
    def weights(self) -> int:
        """Weights that "bits" is an average over."""
        return sum(group.weights for group in self.groups if group.counted)

    @property
    def digest(self) -> str:
        """BLAKE3 of the canonical JSON, 64 hexadecimal digits."""
        return strict.digest(self.to_json())

    def to_json(self) -> dict[str, strict.Json]:
        return {
            "version": VERSION,
            "source": self.source,
            "constants": self.constants,
            "unit": self.unit,
            "groups": [group.to_json() for group in self.groups],
        }

    @classmethod
    def from_json(cls, data: object) -> CostTable:
        """The inverse of `to_json`; UsageError names the key or value that is wrong."""
        taken = strict.fields(data, "cost table", ("version", "source", "constants", "unit", "groups"))
        check_version(taken["version"], "cost table")
        rows = strict.items(taken["groups"], "cost table, groups")
        return cls(
            tuple(Group.from_json(row, f"cost table, group {number}") for number, row in enumerate(rows)),
            strict.text(taken["source"], "cost table, source"),
            strict.text(taken["constants"], "cost table, constants"),
            strict.text(taken["unit"], "cost table, unit"),
        )

    def to_text(self) -> str:
        return json.dumps(self.to_json(), indent=1, ensure_ascii=True) + "\n"

    @classmethod
    def from_text(cls, text: str) -> CostTable:
        return cls.from_json(strict.parse(text, "cost table"))


def check_version(value: object, where: str) -> None:
    if type(value) is not int or value != VERSION:
        got = repr(value)[:40]
        raise UsageError("another version", where=where, got=got, expected=VERSION, remedy="make it anew")
