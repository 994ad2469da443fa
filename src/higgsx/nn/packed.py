"""Modules that hold compressed weights.

A module keeps its class's behaviour: it becomes a dynamic subclass of its own class in which the parameter
is a property that gives a virtual weight. The bytes are plain uint8 parameters beside it, `weight_hgs` and
perhaps `weight_hgsr`, so that moving, offloading, sharing and saving need nothing special.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from higgsx.codecs.base import torch_dtype
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.kernels import ops
from higgsx.kernels.compiled import text_of
from higgsx.kernels.packed import Packed
from higgsx.nn.traced import traced
from higgsx.nn.virtual import VirtualWeight


@dataclass(frozen=True)
class _Entry:
    """Of one packed parameter: what its bytes mean, the same as text, its arrays, the run dtype."""

    descriptor: Descriptor
    text: str
    suffixes: tuple[str, ...]
    dtype: torch.dtype
    axes: str

    @staticmethod
    def of(descriptor: Descriptor, dtype: torch.dtype) -> _Entry:
        suffixes = tuple(sorted(descriptor.arrays()))
        return _Entry(descriptor, text_of(descriptor), suffixes, dtype, descriptor.axes)


class PackedMixin:
    """What a module with compressed weights does differently; comes before its class in the dynamic one."""

    _hgs_base: type[nn.Module]
    _hgs: dict[str, _Entry]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor) and name in self.__dict__.get("_hgs", {}):
            _make_dense(cast(nn.Module, self), name, value)
            return
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], Any]:
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        return _revive, (self._hgs_base, tuple(self._hgs)), state or self.__dict__

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        def keep_bytes(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            # `.type(dtype)` would turn bytes into numbers of another width
            return (
                moved
                if tensor.is_floating_point() or moved.dtype == tensor.dtype
                else tensor.to(moved.device)
            )

        super()._apply(keep_bytes, recurse)  # type: ignore[misc]
        for name, entry in self._hgs.items():
            # the dtype that the dense weight would get
            dtype = fn(torch.empty(0, dtype=entry.dtype)).dtype
            if dtype != entry.dtype:
                self._hgs[name] = replace(entry, dtype=dtype)
        return self


def pack(
    module: nn.Module,
    parameter: str,
    descriptor: Descriptor,
    dtype: torch.dtype,
    arrays: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Replace a module's own parameter by compressed arrays.

    parameter  its name in the module, without dots
    dtype      run dtype: what the dense parameter would have
    arrays     the stored arrays by suffix, used as they are; None: placeholders on the meta device
    Raises ModelError where the parameter is not there or shapes do not fit.
    """
    dense = module._parameters.get(parameter)
    where = f"{type(module).__name__}.{parameter}"
    if dense is None:
        raise ModelError("the module has no such parameter", where=where)
    if tuple(dense.shape) != tuple(descriptor.shape):
        raise ModelError(
            "shape differs", where=where, got=tuple(descriptor.shape), expected=tuple(dense.shape)
        )
    if arrays is None:
        arrays = {
            suffix: torch.empty(shape, dtype=torch_dtype(kind), device="meta")
            for suffix, (kind, shape) in descriptor.arrays().items()
        }
    check_arrays(arrays, descriptor, where)
    del module._parameters[parameter]
    entries = dict(module.__dict__.get("_hgs", {}))
    entries[parameter] = _Entry.of(descriptor, dtype)
    module.__dict__["_hgs"] = entries
    module.__class__ = packed_class(_base_of(module), tuple(entries))
    for suffix, array in arrays.items():
        module.register_parameter(parameter + suffix, _frozen(array))
    # a loader that initialises what it thinks is missing must leave this module alone
    module._is_hf_initialized = True  # type: ignore[assignment]


def check_arrays(arrays: Mapping[str, torch.Tensor], descriptor: Descriptor, where: str) -> None:
    """ModelError unless these are the stored arrays of a compressed tensor."""
    declared = {suffix: tuple(shape) for suffix, (_, shape) in descriptor.arrays().items()}
    given = {suffix: tuple(array.shape) for suffix, array in arrays.items()}
    if "" in declared or any(array.dtype != torch.uint8 for array in arrays.values()):
        raise ModelError("a dense tensor is not packed", where=where)
    if given != declared:
        raise ModelError("arrays do not fit their description", where=where, got=given, expected=declared)


def _frozen(array: torch.Tensor) -> nn.Parameter:
    return array if isinstance(array, nn.Parameter) else nn.Parameter(array, requires_grad=False)


def is_packed(module: nn.Module) -> bool:
    return isinstance(module, PackedMixin)


def packed_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the module's own parameters that are compressed."""
    return tuple(module._hgs) if isinstance(module, PackedMixin) else ()


def packed_of(module: nn.Module, parameter: str) -> Packed:
    """A compressed parameter of a module: description, current arrays, run dtype."""
    entry = cast(PackedMixin, module)._hgs[parameter]
    arrays: dict[str, torch.Tensor] = {}
    for suffix in entry.suffixes:
        array = module._parameters[parameter + suffix]
        if array is None:
            raise ModelError(
                "compressed bytes are missing", where=f"{type(module).__name__}.{parameter}{suffix}"
            )
        arrays[suffix] = array
    return Packed(entry.descriptor, arrays, entry.dtype)


def make_dense(module: nn.Module, parameter: str) -> nn.Parameter:
    """Give a module its ordinary parameter back, decoded to the run dtype, frozen."""
    return _make_dense(module, parameter, ops.decode(packed_of(module, parameter)))


def _make_dense(module: nn.Module, parameter: str, value: torch.Tensor) -> nn.Parameter:
    entries = dict(cast(PackedMixin, module)._hgs)
    entry = entries.pop(parameter)
    if tuple(value.shape) != tuple(entry.descriptor.shape):
        where = f"{type(module).__name__}.{parameter}"
        raise ModelError(
            "shape differs", where=where, got=tuple(value.shape), expected=entry.descriptor.shape
        )
    for suffix in entry.suffixes:
        del module._parameters[parameter + suffix]
    base = _base_of(module)
    if entries:
        module.__dict__["_hgs"] = entries
        module.__class__ = packed_class(base, tuple(entries))
    else:
        del module.__dict__["_hgs"]
        module.__class__ = base
    dense = _frozen(value.detach() if not isinstance(value, nn.Parameter) else value)
    module.register_parameter(parameter, dense)
    return dense


def _settle(module: nn.Module, parameter: str, value: torch.Tensor) -> torch.Tensor:
    """Changed values of a virtual weight; it may have been changed before, through another view of it."""
    if parameter in packed_parameters(module):
        return _make_dense(module, parameter, value)
    dense = module._parameters[parameter]
    if dense is None:
        raise ModelError("the parameter is gone", where=f"{type(module).__name__}.{parameter}")
    if value is not dense:
        dense.data = value.detach()
    return dense


def _base_of(module: nn.Module) -> type[nn.Module]:
    return module._hgs_base if isinstance(module, PackedMixin) else type(module)


_classes: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def packed_class(base: type[nn.Module], parameters: tuple[str, ...]) -> type[nn.Module]:
    """Subclass of `base` in which these parameters are virtual; always the same one. It carries the name of
    its base."""
    key = base, tuple(sorted(parameters))
    if key not in _classes:
        body: dict[str, object] = {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "_hgs_base": base,
        }
        body |= {parameter: _virtual(parameter) for parameter in parameters}
        if base.forward is nn.Linear.forward and "bias" not in parameters:
            body["forward"] = _linear
        _classes[key] = cast("type[nn.Module]", type(base.__name__, (PackedMixin, base), body))
    return _classes[key]


def _linear(self: Any, input: torch.Tensor) -> torch.Tensor:
    """What `nn.Linear` does, without a virtual weight where nobody sees it."""
    if torch.compiler.is_compiling():
        entry, arrays = _traced(self, "weight")
        done: torch.Tensor = torch.ops.higgsx.linear(input, arrays, entry.text, entry.dtype, self.bias)
        return done
    if type(input) is torch.Tensor:
        return ops.linear(input, packed_of(self, "weight"), self.bias)
    return F.linear(input, self.weight, self.bias)


def _traced(module: Any, parameter: str) -> tuple[_Entry, list[torch.Tensor]]:
    """What our operations take instead of a virtual weight, which the tracer cannot see through."""
    entry = module._hgs[parameter]
    return entry, [module._parameters[parameter + suffix] for suffix in entry.suffixes]


def _virtual(parameter: str) -> property:
    def weight(self: Any) -> torch.Tensor:
        if torch.compiler.is_compiling():
            entry, arrays = _traced(self, parameter)
            decoded: torch.Tensor = torch.ops.higgsx.decode(arrays, entry.text, entry.dtype)
            return cast(torch.Tensor, traced(decoded, entry, arrays))
        return VirtualWeight.of(packed_of(self, parameter), lambda value: _settle(self, parameter, value))

    return property(weight)


def _revive(base: type[nn.Module], parameters: tuple[str, ...]) -> nn.Module:
    """An empty module of the dynamic class, for copies and pickles."""
    cls = packed_class(base, parameters)
    return cls.__new__(cls)
