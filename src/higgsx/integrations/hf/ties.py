"""Tied weights of transformers models when they are compressed.

transformers knows ties by parameter names: `all_tied_weights_keys` while loading, the class attribute
`_tied_weights_keys` when saving, resizing and tying again. A compressed parameter has other names, and may
get its own back later. So a model with compressed ties becomes a dynamic subclass of its class, in which
that attribute says what is true now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch

from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.nn.packed import pack, packed_of, packed_parameters

if TYPE_CHECKING:
    # transformers imports this module from within the import of its own models
    from transformers import PreTrainedModel

Dtypes = Callable[[str], torch.dtype]
"""The run dtype of a parameter by its name."""


def pack_all(
    model: PreTrainedModel, descriptors: Mapping[str, Descriptor], dtypes: Dtypes
) -> dict[str, Descriptor]:
    """Make room for compressed parameters and their tied copies, and tell transformers the new names.

    descriptors  by parameter name; those of tied copies may be absent
    dtypes       run dtype of each
    Returns what was not compressed before. ModelError where two tied names are described differently.
    """
    wanted = dict(descriptors)
    tied = False
    for one, other in _pairs(model, wanted):
        known = wanted.get(one, wanted.get(other))
        if known is None:
            continue
        tied = True
        for name in (one, other):
            if wanted.setdefault(name, known) != known:
                raise ModelError(
                    "the model ties two tensors that are stored differently", where=f"{one}, {other}"
                )
    if tied:
        _remember(model)
    done = {}
    for name, descriptor in wanted.items():
        owner, leaf = owner_of(model, name)
        if leaf not in packed_parameters(owner):
            pack(owner, leaf, descriptor, dtypes(name))
            done[name] = descriptor
    if tied:
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    return done


def owner_of(model: PreTrainedModel, name: str) -> tuple[torch.nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _pairs(model: PreTrainedModel, wanted: Mapping[str, Descriptor]) -> list[tuple[str, str]]:
    """Ties, those with a described member first, so that what they say reaches the others of a chain."""
    pairs = list(model.all_tied_weights_keys.items())
    return sorted(pairs, key=lambda pair: pair[0] not in wanted and pair[1] not in wanted)


def _remember(model: PreTrainedModel) -> None:
    """Keep the ties of the model and its parts by their original names, before these go."""
    from transformers import PreTrainedModel

    for _, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not isinstance(module, TiedMixin):
            # asked of the model, so that patterns are resolved and the configuration is respected
            ties = module.get_expanded_tied_weights_keys(all_submodels=False)
            if ties:
                module.__dict__["_hgs_ties"] = ties
                module.__dict__.pop("_tied_weights_keys", None)
                module.__class__ = tied_class(type(module))  # type: ignore[arg-type]


def current(model: PreTrainedModel, ties: Mapping[str, str]) -> dict[str, str]:
    """The same ties by the names that parameters have now. A tie between a compressed and an ordinary
    parameter is none any more."""
    found: dict[str, str] = {}
    for target, source in ties.items():
        try:
            target_owner, target_leaf = owner_of(model, target)
            source_owner, source_leaf = owner_of(model, source)
        except AttributeError:  # a part was taken out of the model
            continue
        if source_leaf in packed_parameters(source_owner):
            if target_leaf in packed_parameters(target_owner):
                for suffix in packed_of(source_owner, source_leaf).arrays:
                    found[target + suffix] = source + suffix
        else:
            found[target] = source
    return found


class TiedMixin:
    """What a model with compressed ties does differently; comes before its class in the dynamic one."""

    # transformers evaluates the annotations of its subclasses, so none may name what is not imported here
    _hgs_model: Any

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        return current(cast("PreTrainedModel", self), self.__dict__.get("_hgs_ties", {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._hgs_model,), self.__dict__


@cache
def tied_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Subclass of `base` that knows its compressed ties. It carries the name of its base."""
    body = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_hgs_model": base,
    }
    return cast("type[PreTrainedModel]", type(base.__name__, (TiedMixin, base), body))


def _revive(base: type[PreTrainedModel]) -> PreTrainedModel:
    cls = tied_class(base)  # type: ignore[arg-type]
    return cls.__new__(cls)
