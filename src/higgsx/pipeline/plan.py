"""From what is there and what is asked for to a plan: cost table, budget, solver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import Candidate, CostTable, Group
from higgsx.errors import FormatError, UsageError
from higgsx.pipeline.candidates import NOTE, Errors, candidate_of, gaussian_errors, group_of, sampled_errors
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
) -> CostTable:
    """Every candidate of every tensor.

    sample  measure errors on samples of the weights; else the codes' Gaussian constants, from headers alone
    """
    codecs = allowed(options.allow)

    def make(order: int) -> Group:
        item = items[order]
        errors: Errors = gaussian_errors
        if sample and not item.why:
            errors = sampled_errors(source, item, options.method)
        return group_of(item, codecs, errors, order)

    groups: list[Group] = []
    with one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        for group in pool.map(make, range(len(items))):
            groups.append(group)
            progress("measuring codes", len(groups), len(items))
    how = "errors sampled" if sample else "errors of Gaussian weights"
    return CostTable(tuple(groups), source.fingerprint, f"{NOTE}; {how}")


def make_plan(source: Checkpoint, items: Sequence[Item], table: CostTable, options: Options) -> Plan:
    """The best plan within the budget. BudgetError names the least that is possible."""
    budget = budget_of(source, items, table, options)
    return Plan.from_solution(table, solve(table, budget), budget)


def follow(
    source: Checkpoint, items: Sequence[Item], table: CostTable, options: Options, given: Plan
) -> Plan:
    """A plan that somebody has edited, with everything but its labels looked up again.

    UsageError where it does not belong to the model, BudgetError where it is over the budget that it names.
    """
    plan = given.resolve(table, lambda group, params: _priced(source, items, options, group, params))
    if plan.budget is not None and plan.budget.kind == "size":
        fixed = overhead(source, items, table, options)
        plan = dataclasses.replace(plan, budget=dataclasses.replace(plan.budget, fixed=fixed))
    plan.require_budget()
    return plan


def _priced(
    source: Checkpoint, items: Sequence[Item], options: Options, group: Group, params: Mapping[str, object]
) -> Candidate:
    """Bytes and predicted loss of parameters that the palette does not offer."""
    item = next(item for item in items if item.name == group.name)
    if item.why:
        raise UsageError("must stay exact", where=f"plan, group {group.name!r}", got=item.why)
    try:
        descriptor = described(item, params)
    except (FormatError, KeyError, TypeError) as error:
        raise UsageError("parameters make no code", where=f"plan, group {group.name!r}", got=error) from None
    return candidate_of(item, descriptor, sampled_errors(source, item, options.method)(descriptor))


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
