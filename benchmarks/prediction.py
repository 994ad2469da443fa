"""Predicted against measured loss: one group damaged at a time, and whole plans.

    python benchmarks/prediction.py [MODEL]              qwen2.5-coder-0.5b; what was measured before stays
    python benchmarks/prediction.py MODEL --groups 40    so many groups instead of 24; 0: whole plans alone
    python benchmarks/prediction.py MODEL --by gradients     whole plans by this prediction alone
    python benchmarks/prediction.py MODEL --again        measures anew
    python benchmarks/prediction.py --write              fills its part of docs/results.md

Groups: all where they are few; else those at evenly spaced places of the order by loss predicted without
data, so that small and large ones are among them, and always what the model reads and says. Each alone gets
gauss8.b64 (3.1 bits) while everything else is exact, once as it is stored without data and once with the
channel scales that gradients found. KL is measured on one window of 512 tokens of each held-back text (small
models: as in fidelity.py); whole plans also on text that the model writes itself, as what gradients learn
from. Predictions: without data, as `--gradients` makes them from nothing, and for whole plans as
`--calibration` makes them from other text of the held-back kind. Results go into
benchmarks/measured/prediction.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from common import REAL_MODELS, ROOT, machine
from damage import tables
from damage.bench import Bench
from damage.forecasts import KINDS, block, rank_correlation
from damage.subjects import subject, such_text
from results import write_block

from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import CostTable, Group

OUT = ROOT / "benchmarks" / "measured" / "prediction.json"
CODE = "gauss8.b64"
BITS = ("3", "3.5", "4.25", "5")
SUCH_TEXT = "gradients from such text"
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


def measure_groups(bench: Bench, count: int, found: Mapping[str, CostTable], known: Known, save: Any) -> None:
    """Fills known["groups"]: by name and by kind of prediction."""
    ends = [item.name for item in bench.items if item.roles & {"embedding", "head"}]
    open_ = [group for group in found["without data"].groups if group.find(CODE) is not None]
    known["of"] = len(open_)
    predicted = {kind: {group.name: group for group in found[kind].groups} for kind in KINDS}
    for name in (group.name for group in picked(open_, count, ends)):
        rows = known["groups"].setdefault(name, {kind: {} for kind in KINDS})
        for kind, row in rows.items():
            # predictions are those of today, what was measured stays
            row["predicted"] = _loss(predicted[kind][name])
            if "measured" not in row:
                bench.fill({name: tables.uniform(bench, CODE, kind != "without data")[name]})
                row |= _measured(bench)
                save()
            _tell(f"{name}, {kind}", row)


def measure_plans(bench: Bench, kind: str, table: CostTable, known: Known, save: Any) -> None:
    """Fills known["totals"] with what the planner chooses by this prediction."""
    for bits in BITS:
        key = f"{bits} bits, {kind}"
        budget = Budget.of_bits(Fraction(bits))
        plan = Plan.from_solution(table, solve(table, budget), budget)
        if known["totals"].get(key, {}).get("predicted") != plan.loss:
            choices = {choice.name: dict(choice.params) for choice in plan.choices}
            bench.fill(tables.chosen(bench, choices, kind != "without data"))
            own = {"own": bench.damage(judged=False, own=True).total.loss.value} if bench.own else {}
            known["totals"][key] = {"bits": bits, "predicted": plan.loss, **_measured(bench), **own}
            save()
        _tell(key, known["totals"][key])


def measure(name: str, count: int, known: Known, save: Any, by: Sequence[str]) -> None:
    one = subject(name)
    if name in REAL_MODELS:
        one = dataclasses.replace(one, most=one.window or one.most)
    made = {"without data": tables.without_data, "gradients": tables.with_gradients}
    kinds = [kind for kind in KINDS if kind in by or count]
    if kinds:
        bench = Bench(one, own=True)
        found = {kind: made[kind](bench) for kind in kinds}
        if count:
            measure_groups(bench, count, found, known, save)
        for kind in kinds:
            if kind in by:
                measure_plans(bench, kind, found[kind], known, save)
        del bench
    if SUCH_TEXT in by:
        bench = Bench(dataclasses.replace(one, name=f"{name}-such-text", learn=such_text(one)))
        measure_plans(bench, SUCH_TEXT, tables.with_gradients(bench), known, save)


def _measured(bench: Bench) -> dict[str, float | None]:
    loss = bench.damage(judged=False).total.loss
    return {"measured": loss.value, "error": loss.error}


def _tell(name: str, row: Mapping[str, Any]) -> None:
    numbers = "  ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
    print(f"{name:64} {numbers}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default=REAL_MODELS[0], metavar="MODEL")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--by", nargs="+", choices=(*KINDS, SUCH_TEXT), default=(*KINDS, SUCH_TEXT))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    data: Known = json.loads(OUT.read_text()) if OUT.is_file() else {}
    if options.write:
        write_block("prediction", block(data))
        return
    if not subject(options.model).here:
        print(f"{options.model}: not here, left out (see ../shared/models/real/prepare.py)", file=sys.stderr)
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
        found = rank_correlation([row[kind] for row in rows])
        print(f"rank correlation over {len(rows)} groups, {kind}: {found:.3f}")


if __name__ == "__main__":
    main()
