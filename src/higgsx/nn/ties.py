"""Which names of a model stand for one parameter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from higgsx.errors import ModelError


@dataclass(frozen=True)
class Place:
    """One name of a parameter: its owner and its name there."""

    name: str
    module: nn.Module
    parameter: str


@dataclass(frozen=True)
class Shared:
    """One parameter and every place that holds it, in the order of the model."""

    tensor: nn.Parameter
    places: tuple[Place, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.places)

    @property
    def name(self) -> str:
        return self.places[0].name


def memory(tensor: torch.Tensor) -> int:
    """Equal for tensors that share memory. Only meaningful while both live; works on the meta device."""
    return int(tensor.untyped_storage()._cdata)


def identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for tensors that are the same numbers in the same memory."""
    return memory(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def places(model: nn.Module) -> Iterator[Place]:
    """Every name of every parameter; a module or parameter with several paths appears under each."""
    for path, module in model.named_modules(remove_duplicate=False):
        for parameter, tensor in module._parameters.items():
            if tensor is not None:
                yield Place(f"{path}.{parameter}" if path else parameter, module, parameter)


def shared_parameters(model: nn.Module) -> tuple[Shared, ...]:
    """All parameters, each once, in the order of the model. ModelError for one that has no shape yet."""
    groups: dict[tuple[object, ...], list[Place]] = {}
    for place in places(model):
        tensor = place.module._parameters[place.parameter]
        if tensor is not None and is_lazy(tensor):
            raise ModelError("the parameter has no shape yet", where=place.name, remedy="run the module once")
        if tensor is not None:
            groups.setdefault(identity(tensor), []).append(place)
    return tuple(Shared(_tensor(group[0]), tuple(group)) for group in groups.values())


def _tensor(place: Place) -> nn.Parameter:
    tensor = place.module._parameters[place.parameter]
    return tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(torch.as_tensor(tensor))
