"""Cost tables: as `compress` makes them without data, and with the losses that gradients predict."""

from __future__ import annotations

from collections.abc import Sequence

from damage.bench import Bench
from higgsx.almpq.table import CostTable
from higgsx.descriptor import Descriptor
from higgsx.pipeline.draft import described
from higgsx.pipeline.options import Options
from higgsx.pipeline.palette import allowed
from higgsx.pipeline.plan import cost_table, silent
from higgsx.pipeline.survey import Item, survey, with_scales


def without_data(bench: Bench, policy: str = "free", method: str = "rtn") -> CostTable:
    """Items are those of the policy; errors are measured on samples of the weights."""
    options = Options.make(policy=policy, method=method)
    return cost_table(bench.source, items_of(bench, policy), options)


def with_gradients(bench: Bench, policy: str = "free") -> CostTable:
    """As `compress --gradients` makes it."""
    options = Options.make(policy=policy)
    items, statistics = items_of(bench, policy, learned=True), bench.learned.statistics
    return cost_table(bench.source, items, options, True, silent, statistics, bench.handle.names)


def items_of(bench: Bench, policy: str = "free", learned: bool = False) -> Sequence[Item]:
    """learned: with the channel scales that gradients found."""
    items = bench.items if policy == "free" else survey(bench.source, bench.handle, policy)
    return with_scales(items, bench.learned.scales) if learned else items


def uniform(bench: Bench, label: str, learned: bool = False) -> dict[str, Descriptor]:
    """One code for every matrix that may be compressed. Labels of the palette, or of a zero-point form.
    learned: with channel scales."""
    codec = _ZERO.get(label) or next(codec for codec in allowed(_words(label)) if codec.label == label)
    found = {}
    for item in items_of(bench, learned=learned):
        if not item.why and codec.accepts(item.plain.matrix, item.info.dtype) is None:
            found[item.name] = Descriptor(item.info.dtype, item.info.shape, item.axes, codec, item.transform)
    return found


def _words(label: str) -> Sequence[str]:
    return (label.partition(".")[0],)


def chosen(bench: Bench, choices: dict[str, dict[str, object]], learned: bool) -> dict[str, Descriptor]:
    """Descriptors of a plan's choices, by name of the tensor."""
    items = {item.name: item for item in items_of(bench, learned=learned)}
    return {name: described(items[name], params) for name, params in choices.items()}


def _zero_forms() -> dict[str, object]:
    from higgsx.codecs.uniform import Uniform

    forms = [Uniform(bits, 64, "u8", zero, 0, 0) for bits in (3, 4) for zero in ("u8", "f16")]
    return {form.label: form for form in forms}


_ZERO = _zero_forms()
