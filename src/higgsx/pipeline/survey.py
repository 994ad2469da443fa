"""What is there: the tensors of a checkpoint joined with what the census found in the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch

from higgsx.calibration.statistics import kind_of
from higgsx.codecs.dense import Dense
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError, SourceError, UsageError
from higgsx.nn.census import Census, Weight, census
from higgsx.nn.probe import probe
from higgsx.source.checkpoint import Checkpoint
from higgsx.source.header import TensorInfo
from higgsx.tasks import ModelHandle
from higgsx.transforms.hadamard import Hadamard

_FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Item:
    """One tensor that the file will hold.

    name   in the checkpoint
    names  of all tied copies that the checkpoint knows, this one first
    axes   as in a descriptor; empty where it is no matrix
    roles  what the census says: embedding, head, inner
    space  id of its input space
    why    reason why it stays exact, empty if it may be compressed
    scales of the channels of its input space, empty without (`transforms/channels.py`)
    """

    name: str
    names: tuple[str, ...]
    info: TensorInfo
    axes: str
    roles: frozenset[str]
    space: str
    why: str
    scales: str = ""

    @property
    def plain(self) -> Descriptor:
        """The tensor as a matrix, exact: for shapes and views."""
        return Descriptor(self.info.dtype, self.info.shape, self.axes, Dense(self.info.dtype))

    @property
    def transform(self) -> Hadamard | None:
        """Of the inputs; the same signs for all tensors of one input space."""
        if not self.axes:
            return None
        return Hadamard.default(self.space, self.plain.matrix.inputs, self.plain.segment, self.scales)

    @property
    def weights(self) -> int:
        return self.info.nbytes // self.info.torch_dtype.itemsize

    @property
    def counted(self) -> bool:
        """Whether it counts in `bits`: two dimensions or more."""
        return len(self.info.shape) >= 2


def survey(
    source: Checkpoint, handle: ModelHandle, policy: str = "free", keep: Sequence[str] = ()
) -> tuple[Item, ...]:
    """Items in execution order. Reads headers only.

    policy, keep  as in `Options`. UsageError for a pattern that fits no tensor.
    """
    model = handle.skeleton()
    found = census(model, handle.call)
    names = handle.names
    _check_patterns(keep, source)
    stored = _stored_once(source, names, found)
    spaces = _space_ids(found, names)
    by_model_name = {name: weight for weight in found.weights for name in weight.names}
    reasons = {**dict(found.rest), **handle.unmapped}
    unserved = _unserved(handle)
    items = [
        _item(source.tensors[name], copies, names.get(name), by_model_name, reasons, spaces)
        for name, copies in stored.items()
    ]
    items = [_kept(item, unserved.get(kind_of(names.get(item.name, ""))), policy, keep) for item in items]
    order = _execution_order(model, by_model_name)
    last = len(order)
    place = {item.name: order.get(names.get(item.name, ""), last) for item in items}
    return tuple(sorted(items, key=lambda item: (place[item.name], item.name)))


def with_scales(items: Sequence[Item], scales: Mapping[str, str]) -> tuple[Item, ...]:
    """The same items with the channel scales of their input spaces."""
    return tuple(replace(item, scales=scales.get(item.space, "") if item.axes else "") for item in items)


def _check_patterns(keep: Sequence[str], source: Checkpoint) -> None:
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in source.tensors):
            raise UsageError(
                "no tensor has such a name",
                where="--keep",
                got=pattern,
                remedy="`higgsx plan` prints the names",
            )


def _stored_once(source: Checkpoint, names: Mapping[str, str], found: Census) -> dict[str, tuple[str, ...]]:
    """Checkpoint names that are stored, each with those that are the same parameter of the model."""
    # which copy is stored must not depend on the order of the files: the one that the model uses first
    first_of = {
        name: (weight.names[0], place) for weight in found.weights for place, name in enumerate(weight.names)
    }
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in source.tensors:
        target = names.get(name)
        key, place = (name, 0) if target is None else first_of.get(target, (target, 0))
        groups.setdefault(key if target is None else f"\0{key}", []).append((place, name))
    stored = {}
    for members in groups.values():
        first, *others = (name for _, name in sorted(members))
        for other in others:
            _check_equal(source, first, other)
        stored[first] = (first, *others)
    return stored


def _check_equal(source: Checkpoint, name: str, other: str) -> None:
    a, b = source.tensors[name], source.tensors[other]
    same = (a.dtype, a.shape) == (b.dtype, b.shape)
    count = a.shape[0] if a.shape else 0
    step = max(1, (1 << 24) * count // max(1, a.nbytes))
    for begin in range(0, count, step):
        if not same:
            break
        end = min(begin + step, count)
        # as bytes: NaN does not equal itself, and is reported elsewhere
        rows = [source.read_rows(copy, begin, end).view(torch.uint8) for copy in (name, other)]
        same = torch.equal(*rows)
    if not same:
        raise SourceError(
            "the model ties two tensors that differ in the checkpoint",
            where=f"{name}, {other}",
            remedy="set tie_word_embeddings to false in config.json if they are meant to differ",
        )


def _space_ids(found: Census, names: Mapping[str, str]) -> dict[str, str]:
    """Model name of a weight → id of its input space: the first checkpoint name, sorted, of its readers."""
    checkpoint_name = {target: name for name, target in sorted(names.items(), reverse=True)}
    readers: dict[str, list[str]] = {}
    for weight in found.weights:
        known = [checkpoint_name[name] for name in weight.names if name in checkpoint_name]
        readers.setdefault(weight.space, []).extend(known)
    return {weight.name: min(readers[weight.space], default=weight.space) for weight in found.weights}


def _item(
    info: TensorInfo,
    copies: tuple[str, ...],
    target: str | None,
    weights: Mapping[str, Weight],
    reasons: Mapping[str, str],
    spaces: Mapping[str, str],
) -> Item:
    if 0 in info.shape:
        raise SourceError("an empty tensor", where=info.name, got=f"shape {info.shape}")
    weight = weights.get(target or "")
    if weight is None:
        why = "not two-dimensional"
        if len(info.shape) >= 2 or target is None:
            why = reasons.get(target or info.name, "the model has no parameter of this name")
        return Item(info.name, copies, info, "", frozenset(), info.name, why)
    if tuple(weight.shape) != info.shape:
        raise ModelError(
            "shape differs from the configuration", where=info.name, got=info.shape, expected=weight.shape
        )
    return Item(info.name, copies, info, weight.axes, weight.roles, spaces[weight.name], "")


def _kept(item: Item, unserved: str | None, policy: str, keep: Sequence[str]) -> Item:
    """The item with the reason why it stays exact, if there is one."""
    why = item.why
    if why:
        pass
    elif item.info.dtype not in _FLOATS:
        why = f"holds {item.info.dtype}"
    elif unserved is not None:
        why = f"cannot run compressed: {unserved}"
    elif policy == "hybrid" and item.roles & {"embedding", "head"}:
        why = "kept by policy hybrid"
    elif any(fnmatchcase(name, pattern) for name in item.names for pattern in keep):
        why = "kept by --keep"
    return replace(item, why=why)


def _unserved(handle: ModelHandle) -> dict[str, str]:
    """Kinds of weights whose module, run compressed, would compute something else; found by trying it on a
    small instance. Empty where there is none to try on."""
    small = handle.small()
    if small is None:
        return {}
    return {
        kind_of(name): reason
        for name, reason in probe(small, handle.call, census(small, handle.call).weights)
    }


def _execution_order(model: object, weights: Mapping[str, Weight]) -> dict[str, int]:
    """Place of every parameter and buffer: matrices by first use, others after the matrix before them."""
    entries = []
    order = -1
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]  # type: ignore[attr-defined]
    for index, (name, _) in enumerate(named):
        if name in weights:
            order = weights[name].order
        entries.append((order, index, name))
    return {name: place for place, (_, _, name) in enumerate(sorted(entries))}
