"""The rows of the table of one model: what is stored how, measured once, kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import anchors
from common import ROOT, machine

from damage import peers, tables
from damage.bench import Bench
from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import CostTable
from higgsx.descriptor import Descriptor
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import budget_of
from higgsx.pipeline.survey import survey

OUT = ROOT / "benchmarks" / "measured" / "fidelity.json"
UNIFORM = ("int8.b64", "int6.b64", "gauss32.b64", "gauss16.b64", "gauss8.b64")
ZERO = ("int4.b64.u8.u8", "int4.b64.u8.f16", "int3.b64.u8.f16")
BITS = ("8", "5", "4.25", "3.5", "3")
INT8 = "torch int8"


@dataclass(frozen=True)
class Job:
    """plan  what the rows of a method have in common; at: which of them. Both together are the key
    make  descriptors, rounding, predicted loss (None: none is predicted)
    """

    plan: str
    at: str
    make: Callable[[], tuple[Mapping[str, Descriptor], str, float | None]]


class Store:
    """Rows on disk, written after each: a run that was stopped goes on where it was."""

    def __init__(self, again: bool) -> None:
        self.rows: list[dict[str, Any]] = json.loads(OUT.read_text())["rows"] if OUT.is_file() else []
        self._again = again

    def has(self, model: str, plan: str, at: str) -> bool:
        known = any((row["model"], row["plan"], row["at"]) == (model, plan, at) for row in self.rows)
        return known and not self._again

    def known(self, model: str) -> list[dict[str, Any]]:
        """What will not be measured anew."""
        return [] if self._again else [row for row in self.rows if row["model"] == model]

    def add(self, row: dict[str, Any]) -> None:
        key = (row["model"], row["plan"], row["at"])
        kept = [other for other in self.rows if (other["model"], other["plan"], other["at"]) != key]
        self.rows = [*kept, row]
        OUT.parent.mkdir(exist_ok=True)
        lines = ",\n".join(json.dumps(one) for one in self.rows)
        OUT.write_text(f'{{"machine": {json.dumps(machine())}, "rows": [\n{lines}\n]}}\n')


class Table:
    """Everything that is measured of one model."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @cached_property
    def guessed(self) -> CostTable:
        return tables.without_data(self.bench)

    @cached_property
    def learned(self) -> CostTable:
        begin = time.perf_counter()
        statistics = self.bench.learned.statistics
        seconds = time.perf_counter() - begin
        print(
            f"{self.bench.subject.name} gradients: {statistics.tokens} tokens, {seconds:.0f} s",
            file=sys.stderr,
        )
        return tables.with_gradients(self.bench)

    def jobs(self) -> Iterator[Job]:
        for label in (*UNIFORM, *ZERO):
            if label in UNIFORM:
                yield Job("ALMPQ", label, lambda at=label: self._like(at, False))  # type: ignore[misc]
                yield Job("ALMPQ gradients", label, lambda at=label: self._like(at, True))  # type: ignore[misc]
            for method in ("rtn", "hqq"):
                name = "uniform" if method == "rtn" else f"uniform {method}"
                yield Job(name, label, lambda at=label, how=method: self._uniform(at, how))  # type: ignore[misc]
        sizes = {f"{bits} bits": bits for bits in BITS}
        if self.bench.subject.name == anchors.MODEL:
            sizes |= {anchor.name: anchor.bits for anchor in anchors.LLAMA_CPP}
        for at, bits in sizes.items():
            for name, learned in (("ALMPQ", False), ("ALMPQ gradients", True)):
                yield Job(name, at, lambda of=Fraction(bits), data=learned: self._at(of, data))  # type: ignore[misc]
        yield Job("ALMPQ hqq", "4.25 bits", lambda: self._at(Fraction("4.25"), False, "hqq"))
        for name, learned in (("ALMPQ hybrid", False), ("ALMPQ gradients hybrid", True)):
            yield Job(name, "4.25 bits inside", lambda data=learned: self._hybrid(data))  # type: ignore[misc]

    def _uniform(self, label: str, method: str) -> tuple[Mapping[str, Descriptor], str, float | None]:
        return tables.uniform(self.bench, label), method, None

    def _like(self, label: str, learned: bool) -> tuple[Mapping[str, Descriptor], str, float | None]:
        nbytes, _ = self.bench.bits(tables.uniform(self.bench, label))
        weights = sum(item.weights for item in self.bench.items if item.counted)
        return self._at(Fraction(nbytes * 8, weights), learned)

    def _at(
        self, bits: Fraction, learned: bool, method: str = "rtn"
    ) -> tuple[Mapping[str, Descriptor], str, float | None]:
        table = self.learned if learned else self.guessed
        budget = Budget.of_bits(bits)
        return self._planned(Plan.from_solution(table, solve(table, budget), budget), method, learned)

    def _hybrid(self, learned: bool) -> tuple[Mapping[str, Descriptor], str, float | None]:
        items = survey(self.bench.source, self.bench.handle, "hybrid")
        table = tables.without_data(self.bench, "hybrid")
        budget = budget_of(self.bench.source, items, table, Options.make(policy="hybrid"))
        if learned:
            table = tables.with_gradients(self.bench, "hybrid")
        return self._planned(Plan.from_solution(table, solve(table, budget), budget), "rtn", learned)

    def _planned(
        self, plan: Plan, method: str, learned: bool
    ) -> tuple[Mapping[str, Descriptor], str, float | None]:
        choices = {choice.name: dict(choice.params) for choice in plan.choices}
        return tables.chosen(self.bench, choices, learned), method, plan.loss  # type: ignore[arg-type]


def measure(
    bench: Bench, store: Store, wanted: Sequence[str], places: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows that are not there yet; `wanted` are the first letters of plans, none: all; so are `places`."""
    name, table = bench.subject.name, Table(bench)

    def open_(plan: str, at: str) -> bool:
        asked = not wanted or any(plan.startswith(word) for word in wanted)
        asked = asked and (not places or at in places)
        return asked and not store.has(name, plan, at)

    for job in table.jobs():
        if not open_(job.plan, job.at):
            continue
        begin = time.perf_counter()
        descriptors, method, predicted = job.make()
        bench.fill(descriptors, method)
        yield _row(bench, job.plan, job.at, *bench.bits(descriptors), predicted, begin)
    _, bits = peers.size(bench)
    at = Fraction(bits).limit_denominator(1000)
    for plan, learned in (("ALMPQ", False), ("ALMPQ gradients", True)):
        if open_(plan, INT8):
            begin = time.perf_counter()
            descriptors, method, predicted = table._at(at, learned)
            bench.fill(descriptors, method)
            yield _row(bench, plan, INT8, *bench.bits(descriptors), predicted, begin)
    if open_(INT8, "linear layers"):
        begin = time.perf_counter()
        size = peers.dynamic_int8(bench)  # nothing else can be measured afterwards
        yield _row(bench, INT8, "linear layers", *size, None, begin)


def _row(
    bench: Bench, plan: str, at: str, nbytes: int, bits: float, predicted: float | None, begin: float
) -> dict[str, Any]:
    damage = bench.damage().to_json()
    return {
        "model": bench.subject.name, "plan": plan, "at": at, "megabytes": nbytes / 1e6, "bits": bits,
        "predicted": predicted, "damage": damage, "neighbours": bench.neighbours(),
        "seconds": round(time.perf_counter() - begin, 1),
    }  # fmt: skip
