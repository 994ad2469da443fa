"""Why a plan is as it is: what each costly group could have had instead, and at what rate of exchange."""

from __future__ import annotations

import statistics
from collections import Counter
from fractions import Fraction

from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.solve import Entry, marginal_rate, undominated
from higgsx.almpq.table import CostTable, Group
from higgsx.units import format_bytes

_PER = 1_000_000  # rates are shown per MB


def explain(table: CostTable, plan: Plan, count: int = 10) -> str:
    """Text on the `count` groups that the plan loses most with, the worst first.

    For each: the next cheaper and the next dearer candidate, the loss that the exchange costs or wins, and
    its rate against the plan's own: what one more MB would win where it wins most (the multiplier of the
    linear relaxation at the plan's bytes). A dearer candidate above that rate would have paid; in an optimal
    plan there is none, but for what a whole exchange overshoots the budget. And how sensitive it is: what one
    code costs there for each weight, against the median of all groups.
    """
    budget = plan.budget or Budget.of_size(1)
    spent = sum(budget.cost(choice.counted, choice.nbytes, choice.stored) for choice in plan.choices)
    rate = marginal_rate(table, budget, spent)
    groups = {group.name: group for group in table.groups}
    sensitive = sensitivities(table)
    lines = [
        f"predicted loss {plan.loss:.4g} {plan.unit} at {float(plan.bits):.4f} bits, "
        f"{format_bytes(plan.stored)} of arrays; one more MB would win {float(rate * _PER):.3g}"
    ]
    worst = sorted(plan.choices, key=lambda choice: (-choice.loss, choice.name))
    for choice in worst[:count]:
        lines.append(_headline(choice, plan.loss))
        if choice.name in sensitive:
            lines.append(f"  {_sensitivity(*sensitive[choice.name])}")
        if choice.name in groups:
            lines.extend(_alternatives(choice, groups[choice.name], budget, rate))
    return "\n".join(lines)


def _headline(choice: Choice, whole: float) -> str:
    share = 100 * choice.loss / whole if whole else 0.0
    reason = f" ({choice.why})" if choice.why else ""
    return (
        f"{choice.name}: {choice.label}, {float(choice.bits):.3f} bits, {format_bytes(choice.nbytes)}, "
        f"loss {choice.loss:.3g} ({share:.1f} %){reason}"
    )


def sensitivities(table: CostTable) -> dict[str, tuple[float, str]]:
    """Group → how much more one code costs there for each weight than in the median group, and the code: of
    the lossy ones the one that most groups offer, the first by name. Empty where nothing is lossy."""
    offered = Counter(
        one.label for group in table.groups for one in group.candidates if not one.exact and one.loss > 0
    )
    if not offered:
        return {}
    label = min(offered, key=lambda one: (-offered[one], one))
    found = {}
    for group in table.groups:
        candidate = group.find(label)
        if candidate is not None and candidate.loss > 0:
            found[group.name] = candidate.loss / group.weights
    middle = statistics.median(found.values())
    return {name: (value / middle, label) for name, value in found.items()}


def _sensitivity(times: float, label: str) -> str:
    if times >= 2:
        word = "sensitive"
    elif times <= 0.5:
        word = "not sensitive, but large"
    else:
        word = "of ordinary sensitivity"
    return f"{word}: a weight in {label} costs {times:.2g} times what it costs in the median tensor"


def _alternatives(choice: Choice, group: Group, budget: Budget, rate: Fraction) -> list[str]:
    cost = budget.cost(choice.counted, choice.nbytes, choice.stored)
    cheaper, dearer = neighbours(undominated(group, budget), cost, choice.loss)
    lines = []
    if cheaper is not None:
        saved, lost = cost - cheaper.cost, cheaper.loss - choice.loss
        paid = _rate(lost, saved, rate)
        lines.append(f"  cheaper: {cheaper.label} saves {format_bytes(saved)}, costs {lost:.3g}: {paid}")
    if dearer is not None:
        added, won = dearer.cost - cost, choice.loss - dearer.loss
        paid = _rate(won, added, rate)
        lines.append(f"  dearer: {dearer.label} takes {format_bytes(added)}, wins {won:.3g}: {paid}")
    return lines


def neighbours(entries: list[Entry], cost: int, loss: float) -> tuple[Entry | None, Entry | None]:
    """The dearest undominated candidate below `cost`, and the cheapest above it that loses less."""
    below = [entry for entry in entries if entry.cost < cost]
    above = [entry for entry in entries if entry.cost > cost and entry.loss < loss]
    return (below[-1] if below else None), (above[0] if above else None)


def _rate(loss: float, cost: int, rate: Fraction) -> str:
    mine = Fraction(loss) / cost
    text = f"{float(mine * _PER):.3g} per MB"
    return f"{text}, {float(mine / rate):.2g} times the plan's rate" if rate else text
