"""Cost tables: as `compress` makes them without data, and with the losses that gradients predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from damage.bench import Bench
from higgsx.almpq.table import CostTable, Group
from higgsx.calibration.statistics import Statistics
from higgsx.descriptor import Descriptor
from higgsx.pipeline.candidates import learned_losses, predicted_loss
from higgsx.pipeline.draft import described
from higgsx.pipeline.options import Options
from higgsx.pipeline.palette import allowed
from higgsx.pipeline.plan import cost_table
from higgsx.pipeline.survey import survey


def without_data(bench: Bench, policy: str = "free", method: str = "rtn") -> CostTable:
    """Items are those of the policy; errors are measured on samples of the weights."""
    options = Options.make(policy=policy, method=method)
    items = bench.items if policy == "free" else survey(bench.source, bench.handle, policy)
    return cost_table(bench.source, items, options)


def with_gradients(bench: Bench, table: CostTable, statistics: Statistics) -> CostTable:
    """The same candidates with the losses that `compress --gradients` gives them: errors need not be sampled
    again, because a loss without data is a constant times the error."""
    items = {item.name: item for item in bench.items}
    losses = learned_losses(statistics, bench.handle.names)

    def learned(group: Group) -> Group:
        item = items[group.name]
        unit = predicted_loss(item, 1.0)
        rows = tuple(
            one
            if one.exact
            else dataclasses.replace(one, loss=losses(item, described(item, one.params), one.loss / unit))
            for one in group.candidates
        )
        return dataclasses.replace(group, candidates=rows)

    note = f"gradients over {statistics.tokens} tokens of {statistics.text}; errors sampled"
    return CostTable(tuple(map(learned, table.groups)), table.source, note, statistics.unit)


def uniform(bench: Bench, label: str) -> dict[str, Descriptor]:
    """One code for every matrix that may be compressed. Labels of the palette, or of a zero-point form."""
    codec = _ZERO.get(label) or next(codec for codec in allowed(_words(label)) if codec.label == label)
    found = {}
    for item in bench.items:
        if not item.why and codec.accepts(item.plain.matrix, item.info.dtype) is None:
            found[item.name] = Descriptor(item.info.dtype, item.info.shape, item.axes, codec, item.transform)
    return found


def _words(label: str) -> Sequence[str]:
    return (label.partition(".")[0],)


def chosen(bench: Bench, choices: dict[str, dict[str, object]]) -> dict[str, Descriptor]:
    """Descriptors of a plan's choices, by name of the tensor."""
    items = {item.name: item for item in bench.items}
    return {name: described(items[name], params) for name, params in choices.items()}


def _zero_forms() -> dict[str, object]:
    from higgsx.codecs.uniform import Uniform

    forms = [Uniform(bits, 64, "u8", zero, 0, 0) for bits in (3, 4) for zero in ("u8", "f16")]
    return {form.label: form for form in forms}


_ZERO = _zero_forms()
