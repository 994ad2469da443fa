"""The file before it is written: tensors in execution order, assets, plan, recipe, and their bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from higgsx import __version__
from higgsx.almpq.plan import Choice, Plan
from higgsx.almpq.table import CostTable
from higgsx.codecs.base import ArrayShape
from higgsx.descriptor import Descriptor
from higgsx.hgs import draft as hgs
from higgsx.hgs.layout import ALIGN, PAD, place
from higgsx.hgs.manifest import ASSETS
from higgsx.hgs.strictjson import canonical
from higgsx.pipeline.options import Options
from higgsx.pipeline.survey import Item
from higgsx.source.checkpoint import Checkpoint


def draft_of(
    source: Checkpoint,
    items: Sequence[Item],
    descriptors: Mapping[str, Descriptor],
    plan: Plan,
    options: Options,
) -> hgs.Draft:
    tensors = []
    for item in items:
        descriptor = descriptors[item.name]
        arrays = [
            (item.name + suffix, dtype, shape) for suffix, (dtype, shape) in descriptor.arrays().items()
        ]
        tensors.append((item.name, descriptor.to_json(), arrays))
    return hgs.Draft(
        tensors=tensors,
        ties=[list(item.names) for item in items if len(item.names) > 1],
        assets=source.assets(ASSETS),
        plan=plan.to_json(),
        recipe=recipe_of(source, plan, options),
    )


def recipe_of(source: Checkpoint, plan: Plan, options: Options) -> dict[str, object]:
    """What made the file; no dates and no paths, so that the same request gives the same file."""
    return {
        "tool": "higgsx",
        "version": __version__,
        "source": source.fingerprint,
        "cost_table": plan.table,
        "options": options.to_json(),
    }


def overhead(source: Checkpoint, items: Sequence[Item], table: CostTable, options: Options) -> int:
    """Bytes of the file that are no tensor's, enough for every possible choice.

    Only the header depends on what is chosen. It is counted for one choice, then every group is granted what
    its wordiest candidate says more than that one, and every offset as many digits as the longest has.
    """
    first = tuple(Choice.of(group, group.candidates[0]) for group in table.groups)
    plan = Plan(first, None, table.source, table.digest, table.unit)
    draft = draft_of(source, items, descriptors_of(items, plan), plan, options)
    arrays = place(draft.specs())
    growth = (
        max(one.stored for one in group.candidates) - group.candidates[0].stored for group in table.groups
    )
    digits = len(str(arrays[-1].end + sum(growth)))
    more = _BUDGET + sum(2 * digits - len(f"{array.begin}{array.end}") for array in arrays)
    by_name = {item.name: item for item in items}
    for group in table.groups:
        words = [
            _header_bytes(by_name[group.name], Choice.of(group, one), digits) for one in group.candidates
        ]
        more += max(words) - words[0]
    return hgs.overhead(draft, reserve=more)


_BUDGET = 160
"""The budget and the totals of a plan, which are not known before it is made, take less."""


def _header_bytes(item: Item, choice: Choice, digits: int) -> int:
    """Bytes of the header that speak of this choice; offsets have `digits` digits."""
    descriptor = described(item, choice.params)
    arrays = [(item.name + suffix, *array) for suffix, array in descriptor.arrays().items()]
    entry = {"arrays": [name for name, _, _ in arrays], "descriptor": descriptor.to_json()}
    total = _twice(entry) + _twice(choice.to_json())
    for name, dtype, shape in arrays:
        total += (
            len(canonical({name: {"data_offsets": [], "dtype": dtype, "shape": list(shape)}})) + 2 * digits
        )
        if ArrayShape(dtype, shape).nbytes % ALIGN:
            total += _PAD + 2 * digits
    return total


_PAD = len(f'"{PAD}999999":{{"data_offsets":[,],"dtype":"U8","shape":[63]}},')


def _twice(value: object) -> int:
    """Length within the manifest, which is JSON within JSON."""
    return len(canonical(canonical(value)))


def descriptors_of(items: Sequence[Item], plan: Plan) -> dict[str, Descriptor]:
    """What each stored tensor becomes, by name in execution order."""
    chosen = {choice.name: choice.params for choice in plan.choices}
    return {item.name: described(item, chosen[item.name]) for item in items}


def described(item: Item, params: Mapping[str, object]) -> Descriptor:
    """How a tensor is stored with the parameters of a candidate, and the channel scales of the item."""
    made = Descriptor.from_json({"dtype": item.info.dtype, "shape": list(item.info.shape), **params})
    if made.transform is None or not item.scales:
        return made
    return dataclasses.replace(made, transform=dataclasses.replace(made.transform, scales=item.scales))
