"""Checkpoint names and a model's own names: prefixes and renamings, as transformers would apply them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

_FUSED = "the model fuses it into "


@dataclass(frozen=True)
class Names:
    """mapped    checkpoint name → name in the model's state
    unmapped  checkpoint name → why it has no single place in the model
    ignored   those of `unmapped` that the model's class says may be left out
    """

    mapped: Mapping[str, str]
    unmapped: Mapping[str, str]
    ignored: frozenset[str]


def match(model: PreTrainedModel, names: Iterable[str]) -> Names:
    """Find the place of every tensor of a checkpoint. `model` may be on the meta device."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    ignorable = _ignorable(model)
    mapped: dict[str, str] = {}
    unmapped: dict[str, str] = {}
    ignored = set()
    taken: dict[str, str] = {}
    # some renamings count what they have seen, so they are shown the loader's order
    for name in sorted(names, key=dot_natural_key):
        target, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state:
            plain, _ = rename_source_key(name, [], [], model.base_model_prefix, state)
            if plain in state:
                target, converter = plain, None
        if converter is not None:
            unmapped[name] = f"{_FUSED}{target}"
        elif target not in state:
            unmapped[name] = "the model has no such tensor"
            if ignorable is not None and ignorable.search(target):
                ignored.add(name)
        elif target in taken:
            unmapped[name] = f"{taken[target]} has the same place in the model"
        else:
            taken[target] = name
            mapped[name] = target
    return Names(mapped, unmapped, frozenset(ignored))


def is_fused(reason: str) -> bool:
    """Whether a reason of `Names.unmapped` says that the tensor becomes a part of another."""
    return reason.startswith(_FUSED)


def _ignorable(model: PreTrainedModel) -> re.Pattern[str] | None:
    patterns = set(model._keys_to_ignore_on_load_unexpected or ())
    # old checkpoints hold tables that models compute today
    patterns |= {r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"}
    return re.compile("|".join(f"({pattern})" for pattern in sorted(patterns)))


def missing(model: PreTrainedModel, given: Iterable[str]) -> list[str]:
    """Parameters of the model for which nothing is given and nothing is tied, in order."""
    have = set(given)
    identity = {id(parameter) for name, parameter in _parameters(model) if name in have}
    absent = [name for name, parameter in _parameters(model) if id(parameter) not in identity]
    pattern = "|".join(f"({p})" for p in sorted(model._keys_to_ignore_on_load_missing or ()))
    return [name for name in absent if not pattern or not re.search(pattern, name)]


def _parameters(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    return model.named_parameters(remove_duplicate=False)


def mismatches(
    model: nn.Module, mapped: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """Tensors whose shape is not that of their place, as `name [file] instead of [model]`."""
    state = model.state_dict()
    found = []
    for name, target in mapped.items():
        expected = tuple(state[target].shape)
        if tuple(shapes[name]) != expected:
            found.append(f"{name} {list(shapes[name])} instead of {list(expected)}")
    return found
