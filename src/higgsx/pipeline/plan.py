"""From what is there and what is asked for to a plan: cost table, budget, solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from higgsx.almpq.budget import Budget
from higgsx.almpq.least import least_bytes
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.strict import digest
from higgsx.almpq.table import Candidate, CostTable, Group
from higgsx.calibration.statistics import Statistics
from higgsx.errors import FormatError, UsageError
from higgsx.pipeline.candidates import (
    NOTE,
    Errors,
    Losses,
    candidate_of,
    gaussian_errors,
    group_of,
    learned_losses,
    sampled_errors,
)
from higgsx.pipeline.draft import described, overhead
from higgsx.pipeline.options import Options
from higgsx.pipeline.palette import allowed
from higgsx.pipeline.survey import Item
from higgsx.pipeline.threads import one_thread_each
from higgsx.source.checkpoint import Checkpoint

Progress = Callable[[str, int, int], None]
"""Told a stage, how much of it is done, and how much there is."""


def silent(stage: str, done: int, total: int) -> None:
    """No progress is shown."""


def cost_table(
    source: Checkpoint,
    items: Sequence[Item],
    options: Options,
    sample: bool = True,
    progress: Progress = silent,
    statistics: Statistics | None = None,
    names: Mapping[str, str] | None = None,
) -> CostTable:
    """Every candidate of every tensor.

    sample      measure errors on samples of the weights; else the codes' Gaussian constants, from headers
    statistics  what was learned from data, by the names that `names` gives the checkpoint's; None: the loss
                is a guess
    """
    codecs = allowed(options.allow)
    losses = None if statistics is None else learned_losses(statistics, names or {})

    def make(order: int) -> Group:
        item = items[order]
        errors: Errors = gaussian_errors
        if sample and not item.why:
            errors = sampled_errors(source, item, options.method)
        return group_of(item, codecs, errors, order, losses)

    groups: list[Group] = []
    with one_thread_each() as pool:
        for group in pool.map(make, range(len(items))):
            groups.append(group)
            progress("measuring codes", len(groups), len(items))
    how = "errors sampled" if sample else "errors of Gaussian weights"
    if statistics is None:
        return CostTable(tuple(groups), source.fingerprint, f"{NOTE}; {how}")
    known = set(statistics.r)
    left = sum(1 for item in items if item.axes and not item.why and known.isdisjoint(_targets(item, names)))
    note = f"gradients over {statistics.tokens} tokens of {statistics.text}"
    note += _scales_note(items)
    note += f"; {left} tensors that it does not cover by a guess" if left else ""
    return CostTable(tuple(groups), source.fingerprint, f"{note}; {how}", statistics.unit)


def _scales_note(items: Sequence[Item]) -> str:
    """Channel scales steer a plan, so what names its table names them too."""
    spaces = {item.space: item.scales for item in items if item.scales}
    return f"; {len(spaces)} input spaces with channel scales {digest(spaces)[:16]}" if spaces else ""


def _targets(item: Item, names: Mapping[str, str] | None) -> list[str]:
    return [names[one] for one in item.names if names is not None and one in names]


def make_plan(source: Checkpoint, items: Sequence[Item], table: CostTable, options: Options) -> Plan:
    """The best plan within the budget. BudgetError names the least that is possible."""
    if options.max_kl is not None:
        return Plan.from_solution(table, least_bytes(table, float(options.max_kl)), None)
    budget = budget_of(source, items, table, options)
    return Plan.from_solution(table, solve(table, budget), budget)


def follow(
    source: Checkpoint,
    items: Sequence[Item],
    table: CostTable,
    options: Options,
    given: Plan,
    losses: Losses | None = None,
) -> Plan:
    """A plan that somebody has edited, with everything but its labels looked up again.

    UsageError where it does not belong to the model, BudgetError where it is over the budget that it names.
    """
    plan = given.resolve(table, lambda group, params: _priced(source, items, options, losses, group, params))
    if plan.budget is not None and plan.budget.kind == "size":
        fixed = overhead(source, items, table, options)
        plan = dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, fixed=fixed))
    plan.require_budget()
    return plan


def _priced(
    source: Checkpoint,
    items: Sequence[Item],
    options: Options,
    losses: Losses | None,
    group: Group,
    params: Mapping[str, object],
) -> Candidate:
    """Bytes and predicted loss of parameters that the palette does not offer."""
    item = next(item for item in items if item.name == group.name)
    if item.why:
        raise UsageError("must stay exact", where=f"plan, group {group.name!r}", got=item.why)
    try:
        descriptor = described(item, params)
    except (FormatError, KeyError, TypeError) as error:
        raise UsageError("parameters make no code", where=f"plan, group {group.name!r}", got=error) from None
    return candidate_of(item, descriptor, sampled_errors(source, item, options.method)(descriptor), losses)


def budget_of(source: Checkpoint, items: Sequence[Item], table: CostTable, options: Options) -> Budget:
    if options.size is not None:
        return Budget.of_size(options.size, overhead(source, items, table, options))
    counted = [group for group in table.groups if group.counted]
    exact = [group for group in counted if len(group.candidates) == 1]
    limit = options.limit(
        sum(group.candidates[0].nbytes for group in exact),
        sum(group.weights for group in exact),
        sum(group.weights for group in counted),
    )
    return Budget.of_bits(limit)
