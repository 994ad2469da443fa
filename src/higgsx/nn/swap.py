"""Give a whole model its stored weights: compressed ones packed, the others as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from higgsx.codecs.base import Arrays, torch_dtype
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.nn.packed import check_arrays, is_packed, pack, packed_parameters
from higgsx.nn.ties import Shared, identity, shared_parameters


def swap(
    model: nn.Module,
    descriptors: Mapping[str, Descriptor],
    arrays: Mapping[str, Arrays] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[str, ...]:
    """Replace parameters by compressed ones, in place.

    descriptors  by dotted name of the parameter; dense ones are passed over
    arrays       stored arrays by the same names and by suffix, used as they are; None: placeholders on meta
    dtype        run dtype; None: the dtype that each parameter has
    Tied names are replaced together, also those that `descriptors` does not mention, and share one array
    object; so do names that were given the same array object. Returns every name that is now compressed.
    ModelError, before anything changes, for a name that is not there, arrays that are missing or do not fit,
    or a shape that differs.
    """
    wanted = {name: one for name, one in descriptors.items() if not one.is_dense}
    shared = _by_name(model)
    for name, descriptor in wanted.items():
        _check_place(model, name, shared, tuple(descriptor.shape))
        if arrays is not None and name not in arrays:
            raise ModelError("the arrays of a tensor are missing", where=name)
        if arrays is not None:
            check_arrays(arrays[name], descriptor, name)
    frozen = _Frozen()
    done: dict[str, None] = {}
    for name, descriptor in wanted.items():
        if name in done:
            continue
        stored = frozen(descriptor, None if arrays is None else arrays[name])
        for place in shared[name].places:
            if place.parameter not in packed_parameters(place.module):
                pack(place.module, place.parameter, descriptor, dtype or shared[name].tensor.dtype, stored)
            done[place.name] = None
    return tuple(done)


class _Frozen:
    """Arrays as parameters; the same array always gives the same parameter."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], nn.Parameter] = {}
        self._kept: list[torch.Tensor] = []

    def __call__(self, descriptor: Descriptor, arrays: Arrays | None) -> dict[str, nn.Parameter]:
        if arrays is None:
            arrays = {
                suffix: torch.empty(shape, dtype=torch_dtype(kind), device="meta")
                for suffix, (kind, shape) in descriptor.arrays().items()
            }
        return {suffix: self._one(array) for suffix, array in arrays.items()}

    def _one(self, array: torch.Tensor) -> nn.Parameter:
        if isinstance(array, nn.Parameter):
            return array
        self._kept.append(array)
        return self._made.setdefault(identity(array), nn.Parameter(array, requires_grad=False))


@dataclass(frozen=True)
class Filled:
    """packed   names that are compressed now, tied ones included
    dense    names that got ordinary values
    missing  names of the model for which nothing was given
    unknown  given names that the model does not have
    empty    names, also of buffers that are not saved, that are still on the meta device
    """

    packed: tuple[str, ...]
    dense: tuple[str, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    empty: tuple[str, ...]


def fill(
    model: nn.Module,
    descriptors: Mapping[str, Descriptor],
    arrays: Mapping[str, Arrays],
    dtype: torch.dtype | None = None,
    strict: bool = True,
) -> Filled:
    """Load all stored tensors into a model, in place; the model may be on the meta device.

    descriptors  by dotted name of parameter or buffer
    arrays       stored arrays by the same names and by suffix; used as they are where the dtype is right
    dtype        run dtype of floating-point parameters; None: what each has. Buffers keep theirs
    strict       ModelError, before anything changes, for a tensor that the model lacks, or has and was not
                 given. Tied names stand for each other; buffers that are not saved are not asked for
    """
    shared, buffers = _by_name(model), dict(_saved_buffers(model))
    unknown = tuple(name for name in descriptors if name not in shared and name not in buffers)
    given = {id(shared[name]) for name in descriptors if name in shared}
    missing = tuple(one.name for one in _unique(shared.values()) if id(one) not in given)
    missing += tuple(name for name in buffers if name not in descriptors)
    if strict and (unknown or missing):
        what = (
            "a tensor has no place in the model" if unknown else "the model needs a tensor that is not given"
        )
        names = unknown or missing
        raise ModelError(what, where=names[0], got=f"{len(unknown)} without a place, {len(missing)} missing")
    known = {name: one for name, one in descriptors.items() if name not in unknown}
    for name, descriptor in known.items():
        if name in buffers and tuple(buffers[name].shape) != tuple(descriptor.shape):
            raise ModelError(
                "shape differs", where=name, got=tuple(descriptor.shape), expected=tuple(buffers[name].shape)
            )
        if name in shared:
            _check_place(model, name, shared, tuple(descriptor.shape))
        if name not in arrays:
            raise ModelError("the arrays of a tensor are missing", where=name)
    dense = [name for name, descriptor in known.items() if name in buffers or descriptor.is_dense]
    packed = swap(model, {name: one for name, one in known.items() if name not in dense}, arrays, dtype)
    for name in dense:
        value = known[name].decode(arrays[name])
        if name in buffers:
            _set_buffer(model, name, value.to(buffers[name].dtype))
        else:
            _set_parameter(shared[name], value, dtype)
    return Filled(packed, tuple(dense), missing, unknown, _still_empty(model))


def _by_name(model: nn.Module) -> dict[str, Shared]:
    return {name: one for one in shared_parameters(model) for name in one.names}


def _unique(shared: Iterable[Shared]) -> list[Shared]:
    return list({id(one): one for one in shared}.values())


def _check_place(model: nn.Module, name: str, shared: Mapping[str, Shared], shape: tuple[int, ...]) -> None:
    if name not in shared:
        owner = name.rpartition(".")[0]
        there = any(path == owner and is_packed(module) for path, module in model.named_modules())
        remedy = "densify it first" if there and f"{name}_hgs" in shared else None
        raise ModelError("the model has no such parameter", where=name, remedy=remedy)
    if tuple(shared[name].tensor.shape) != shape:
        raise ModelError("shape differs", where=name, got=shape, expected=tuple(shared[name].tensor.shape))


def _saved_buffers(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def _set_buffer(model: nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, own = name.rpartition(".")
    model.get_submodule(owner)._buffers[own] = value


def _set_parameter(one: Shared, value: torch.Tensor, dtype: torch.dtype | None) -> None:
    if one.tensor.is_floating_point() and value.is_floating_point():
        value = value.to(dtype or one.tensor.dtype)
    parameter = nn.Parameter(value, requires_grad=one.tensor.requires_grad and value.is_floating_point())
    for place in one.places:
        place.module._parameters[place.parameter] = parameter
        place.module._is_hf_initialized = True  # type: ignore[assignment]


def _still_empty(model: nn.Module) -> tuple[str, ...]:
    every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return tuple(name for name, tensor in every if tensor.is_meta)
