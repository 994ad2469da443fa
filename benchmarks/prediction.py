"""Predicted against measured loss: one group damaged at a time, and whole plans.

    python benchmarks/prediction.py [MODEL]              qwen2.5-coder-0.5b; what was measured before stays
    python benchmarks/prediction.py MODEL --groups 40    so many groups instead of 24; 0: whole plans alone
    python benchmarks/prediction.py MODEL --by gradients     whole plans by this prediction alone
    python benchmarks/prediction.py MODEL --again        measures anew
    python benchmarks/prediction.py --write              fills its part of docs/results.md

Groups: all where they are few; else those at evenly spaced places of the order by loss predicted without
data, so that small and large ones are among them, and always what the model reads and says. Each alone gets
gauss8.b64 (3.1 bits) while everything else is exact. KL is measured on one window of 512 tokens of each
held-back text (small models: as in fidelity.py); whole plans also on text that the model writes itself, as
what gradients learn from. Predictions: without data, and as `--gradients` makes them. Results go into
benchmarks/measured/prediction.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from common import REAL_MODELS, ROOT, machine
from damage import tables
from damage.bench import Bench
from damage.forecasts import KINDS, block, spearman
from damage.subjects import subject
from results import write_block

from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import Group

OUT = ROOT / "benchmarks" / "measured" / "prediction.json"
CODE = "gauss8.b64"
BITS = ("3", "3.5", "4.25", "5")
Known = dict[str, Any]


def picked(groups: Sequence[Group], count: int, special: Sequence[str]) -> list[Group]:
    """See the top of this file."""
    if len(groups) <= count:
        return list(groups)
    rows = sorted(groups, key=lambda group: _loss(group))
    places = {round(n * (len(rows) - 1) / (count - 1)) for n in range(count)}
    return [row for place, row in enumerate(rows) if place in places or row.name in special]


def _loss(group: Group) -> float:
    found = group.find(CODE)
    if found is None:
        raise SystemExit(f"{group.name} does not offer {CODE}")
    return found.loss


def measure(name: str, count: int, known: Known, save: Any, by: Sequence[str]) -> None:
    one = subject(name)
    if name in REAL_MODELS:
        one = dataclasses.replace(one, most=one.window or one.most)
    bench = Bench(one, own=True)
    guessed = tables.without_data(bench)
    begin = time.perf_counter()
    learned = tables.with_gradients(bench)
    known["unit"], known["learned"] = learned.unit, bench.learned.statistics.tokens
    print(f"{name}: {known['learned']} tokens of gradients in {time.perf_counter() - begin:.0f} s")
    ends = [item.name for item in bench.items if item.roles & {"embedding", "head"}]
    open_ = [group for group in guessed.groups if group.find(CODE) is not None]
    known["of"] = len(open_)
    after = {group.name: group for group in learned.groups}
    for group in picked(open_, count, ends) if count else ():
        row = known["groups"].setdefault(group.name, {})
        # predictions are those of today, what was measured stays
        row |= {"without data": _loss(group), "gradients": _loss(after[group.name])}
        if "measured" not in row:
            bench.fill({group.name: tables.uniform(bench, CODE)[group.name]})
            row |= _measured(bench)
            save()
        _tell(group.name, row)
    of = {"without data": guessed, "gradients": learned}
    for bits in BITS:
        for kind, table in ((kind, of[kind]) for kind in KINDS if kind in by):
            key = f"{bits} bits, {kind}"
            budget = Budget.of_bits(Fraction(bits))
            plan = Plan.from_solution(table, solve(table, budget), budget)
            before = known["totals"].get(key, {})
            if before.get("predicted") != plan.loss or "own" not in before:
                choices = {choice.name: dict(choice.params) for choice in plan.choices}
                bench.fill(tables.chosen(bench, choices, table is learned))
                own = {"own": bench.damage(judged=False, own=True).total.loss.value} if bench.own else {}
                known["totals"][key] = {"bits": bits, "predicted": plan.loss, **_measured(bench), **own}
                save()
            _tell(key, known["totals"][key])


def _measured(bench: Bench) -> dict[str, float | None]:
    loss = bench.damage(judged=False).total.loss
    return {"measured": loss.value, "error": loss.error}


def _tell(name: str, row: Mapping[str, Any]) -> None:
    numbers = "  ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
    print(f"{name:52} {numbers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=REAL_MODELS[0], metavar="MODEL")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--by", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data: Known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    if options.write:
        write_block("prediction", block(data))
        return
    data["machine"] = machine()
    models = data.setdefault("models", {})
    if options.again:
        models.pop(options.model, None)
    known = models.setdefault(options.model, {"groups": {}, "totals": {}})

    def save() -> None:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(json.dumps(data, indent=1))

    measure(options.model, options.groups, known, save, options.by)
    save()
    rows = list(known["groups"].values())
    for kind in KINDS if rows else ():
        found = spearman([row[kind] for row in rows], [row["measured"] for row in rows])
        print(f"rank correlation over {len(rows)} groups, {kind}: {found:.3f}")


if __name__ == "__main__":
    main()
