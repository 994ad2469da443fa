"""What a model is made of, found by running it once and watching, never by names.

Every parameter is followed from its module into the function that uses it. Weights that enter a matrix
product, a look-up or a convolution can be compressed; everything else stays exact, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from higgsx.errors import ModelError
from higgsx.nn.inplace import changes
from higgsx.nn.operands import (
    GROUPED,
    View,
    conv_axes,
    follow,
    keeps_order,
    matrix_axes,
    name_of,
    products,
)
from higgsx.nn.owners import Owners
from higgsx.nn.results import Results, returned
from higgsx.nn.spaces import Activations, Space, name_spaces
from higgsx.nn.ties import Shared, memory, shared_parameters

UNUSED = "not used in the forward pass"
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Weight:
    """A parameter that can be compressed.

    name   dotted name in the model; of tied ones the first in execution order
    names  all dotted names, `name` first
    dtype  of the parameter
    axes   a key of `descriptor.AXES`: which dimension is outputs, inputs, experts, kernel positions
    roles  "embedding" (looked up), "head" (its product is what the model returns), "inner"
    space  id of the input space: the name of its first reader in sorted order. A table that is looked up is
           its own space, also for its product where it is tied to a head
    order  position in execution order, from 0
    """

    name: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: str
    roles: frozenset[str]
    space: str
    order: int


@dataclass(frozen=True)
class Census:
    """weights  in execution order
    rest     name and reason for every other parameter of two or more dimensions; each tied name has an entry
    """

    weights: tuple[Weight, ...]
    rest: tuple[tuple[str, str], ...]


def census(model: nn.Module, call: Callable[[nn.Module], object]) -> Census:
    """Run `call(model)` once, without gradients, and see how every parameter is used.

    model  usually on the meta device; a small real instance works too, where a forward pass on meta fails
    call   one forward pass; its result tells which product is the head
    Raises ModelError where the call fails.
    """
    shared = shared_parameters(model)
    with Owners(shared) as owners:
        watch = _Watch(shared, owners)
        try:
            with torch.no_grad(), watch:
                result = call(model)
        except Exception as error:
            text = str(error).strip().split("\n")[0][:200]
            raise ModelError(
                "the forward pass does not run",
                where=type(model).__name__,
                got=f"{type(error).__name__}: {text}",
                remedy="try a small real instance instead of the meta device",
            ) from error
        watch.finish(returned(result))
    return _assemble(shared, watch.found)


@dataclass
class _Found:
    """What was seen of one parameter."""

    name: str = ""
    order: int = -1
    axes: list[str] = field(default_factory=list)
    spaces: list[Space] = field(default_factory=list)
    roles: set[str] = field(default_factory=set)
    products: list[int] = field(default_factory=list)
    reason: str = ""


class _Watch(TorchFunctionMode):
    """Sees every torch function of a forward pass."""

    def __init__(self, shared: Sequence[Shared], owners: Owners) -> None:
        super().__init__()
        self.shared, self.owners = shared, owners
        self.found = [_Found() for _ in shared]
        self.used = 0
        self.activations = Activations()
        self.results = Results(self.activations)
        self.views: dict[int, tuple[torch.Tensor, View]] = {}
        for number, one in enumerate(shared):
            for place in one.places:
                tensor = place.module._parameters[place.parameter]
                if tensor is not None:
                    self.views[id(tensor)] = tensor, View(number, tuple(range(tensor.dim())))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        given = _tensors((args, named))
        numbers = {id(x): self.activations.number(x) for x in given if id(x) not in self.views}
        name = name_of(func)
        result = _without_values(name, args, named, given)
        if result is None:
            result = func(*args, **named)
        if name == "__iter__":
            result = list(result)
        self._see(name, args, named, given, numbers, _tensors(result))
        return iter(result) if name == "__iter__" else result

    def _see(
        self,
        name: str,
        args: Sequence[Any],
        named: Mapping[str, Any],
        given: list[torch.Tensor],
        numbers: Mapping[int, int],
        made: list[torch.Tensor],
    ) -> None:
        weights = [x for x in given if id(x) in self.views]
        if not weights:
            self._keep(name, args, named, given, numbers, made)
        elif made or changes(name):
            # what gives no tensor only asks for shape, dtype, device
            used = self._use(name, args, named, made)
            for x in weights:
                if id(x) not in used:
                    written = changes(name) and x is given[0]
                    self._reject(self.views[id(x)][1], "written to" if written else f"enters {name}")
            self.results.follow(name, [x for x in given if id(x) not in used], numbers, made)
            for x in made:
                if id(x) not in self.views:
                    self.activations.made(x)

    def _keep(
        self,
        name: str,
        args: Sequence[Any],
        named: Mapping[str, Any],
        given: list[torch.Tensor],
        numbers: Mapping[int, int],
        made: list[torch.Tensor],
    ) -> None:
        """A function without weights: its results are new activations, or the same in another form."""
        same = bool(given) and bool(args) and args[0] is given[0] and keeps_order(name, args, named)
        for x in made:
            if same:
                self.activations.keep(x, numbers[id(given[0])])
        self.results.follow(name, given, numbers, made)
        if not same:
            for x in made:
                self.activations.made(x)

    def _use(
        self, name: str, args: Sequence[Any], named: Mapping[str, Any], made: list[torch.Tensor]
    ) -> frozenset[int]:
        """Ids of the weights among the arguments whose use is understood."""
        if changes(name):
            return frozenset()
        for weight, x in _pairs(name, args, named):
            if id(weight) in self.views and id(x) not in self.views:
                return (
                    self._look_up(weight, args, named)
                    if name == "embedding"
                    else self._convolve(name, weight, x, args, named, made)
                )
        for entry in products(name, args, named):
            if id(entry.weight) in self.views and id(entry.x) not in self.views:
                view = self.views[id(entry.weight)][1]
                axes, reason = matrix_axes(view, entry, self._shape(view))
                space = (self.activations.number(entry.x), *_features(entry.x, entry.features))
                self._enter(view, axes, reason, space, "inner", made)
                return self._with_biases(entry.weight, args, named)
        return self._follow(name, args, named, made)

    def _follow(
        self, name: str, args: Sequence[Any], named: Mapping[str, Any], made: list[torch.Tensor]
    ) -> frozenset[int]:
        source = args[0] if args else None
        if not isinstance(source, torch.Tensor) or id(source) not in self.views or not made:
            return frozenset()
        view = self.views[id(source)][1]
        new = [follow(view, "select" if name == "__iter__" else name, args, named, x) for x in made]
        if any(one is None for one in new):
            return frozenset()
        for x, one in zip(made, new, strict=True):
            if one is not None and id(x) not in self.views:
                self.views[id(x)] = x, one
        return frozenset({id(source)})

    def _look_up(self, weight: torch.Tensor, args: Sequence[Any], named: Mapping[str, Any]) -> frozenset[int]:
        view = self.views[id(weight)][1]
        limit = named.get("max_norm", args[3] if len(args) > 3 else None)
        reason = "" if limit is None else "a table that is rescaled while it is read"
        if view.dims != (0, 1) or view.cut:
            reason = reason or "changed before it is looked up"
        self._enter(view, "" if reason else "oi", reason, None, "embedding", [])
        return frozenset({id(weight)})

    def _convolve(
        self,
        name: str,
        weight: torch.Tensor,
        x: torch.Tensor,
        args: Sequence[Any],
        named: Mapping[str, Any],
        made: list[torch.Tensor],
    ) -> frozenset[int]:
        view = self.views[id(weight)][1]
        axes, reason = conv_axes(name, view, args, named, self._shape(view))
        self._enter(view, axes, reason, (self.activations.number(x), "channels", *x.shape), "inner", made)
        return self._with_biases(weight, args, named)

    def _with_biases(
        self, weight: torch.Tensor, args: Sequence[Any], named: Mapping[str, Any]
    ) -> frozenset[int]:
        """A bias of one dimension is no weight; it stays as it is."""
        views = [x for x in _tensors((args, named)) if id(x) in self.views and x is not weight]
        return frozenset({id(weight)} | {id(x) for x in views if x.dim() < 2})

    def _enter(
        self, view: View, axes: str, reason: str, space: Space, role: str, made: list[torch.Tensor]
    ) -> None:
        found = self._found(view)
        if reason:
            found.reason = found.reason or reason
            return
        found.axes.append(axes)
        if space is not None:
            found.spaces.append(space)
        if role == "embedding":
            found.roles.add(role)
            return
        for x in made:
            found.products.append(self.results.product(x))

    def _reject(self, view: View, reason: str) -> None:
        found = self._found(view)
        found.reason = found.reason or reason

    def _found(self, view: View) -> _Found:
        found = self.found[view.parameter]
        if found.order < 0:
            found.order = self.used = self.used + 1
            found.name = self.owners.name_of(view.parameter)
        return found

    def _shape(self, view: View) -> torch.Size:
        return self.shared[view.parameter].tensor.shape

    def finish(self, outputs: Sequence[torch.Tensor]) -> None:
        heads = self.results.behind(outputs)
        for found in self.found:
            for product in found.products:
                found.roles.add("head" if product in heads else "inner")


def _without_values(
    name: str, args: Sequence[Any], named: Mapping[str, Any], given: Sequence[torch.Tensor]
) -> Any:
    """The result of what torch cannot do on the meta device, but could; None: let torch do it."""
    if not any(x.is_meta for x in given):
        return None
    if name in GROUPED:
        # torch itself takes only bfloat16 here
        entry = products(name, args, named)[0]
        return entry.x.new_empty((*entry.x.shape[:-1], entry.weight.shape[-1]))
    # asked of token ids: is there a special one among them
    return False if name == "__contains__" else None


def _pairs(
    name: str, args: Sequence[Any], named: Mapping[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, activation) of a look-up or a convolution."""
    if name != "embedding" and not name.startswith(("conv1d", "conv2d", "conv3d")):
        return []
    first = args[0] if args else named.get("input")
    second = args[1] if len(args) > 1 else named.get("weight")
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return []
    return [(second, first)]


def _features(x: torch.Tensor, dim: int) -> tuple[object, ...]:
    """Where the features of an activation lie: the flat order of the last dimension survives a reshape."""
    if dim == -1:
        return "last", x.shape[-1]
    return ("last", x.shape[dim]) if x.shape[-1] == 1 else ("rows", *x.shape)


def _tensors(tree: object) -> list[torch.Tensor]:
    """Tensors in a structure; those inside a vectorised function are not ours to watch."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and not wrapped(x)]


def _assemble(shared: Sequence[Shared], found: Sequence[_Found]) -> Census:
    candidates: list[tuple[Shared, _Found]] = []
    rest: list[tuple[str, str]] = []
    crowded = _crowded(shared)
    for one, seen in zip(shared, found, strict=True):
        if one.tensor.dim() < 2:
            continue
        reason = _static_reason(one, crowded) or seen.reason or _use_reason(seen)
        if reason:
            rest += [(name, reason) for name in one.names]
        else:
            candidates.append((one, seen))
    candidates.sort(key=lambda pair: pair[1].order)
    spaces = name_spaces(
        (seen.name, [] if "embedding" in seen.roles else seen.spaces) for _, seen in candidates
    )
    weights = tuple(
        Weight(
            name=seen.name,
            names=(seen.name, *(name for name in one.names if name != seen.name)),
            shape=tuple(one.tensor.shape),
            dtype=one.tensor.dtype,
            axes=seen.axes[0],
            roles=frozenset(seen.roles),
            space=spaces[seen.name],
            order=order,
        )
        for order, (one, seen) in enumerate(candidates)
    )
    return Census(weights, tuple(rest))


def _crowded(shared: Sequence[Shared]) -> frozenset[int]:
    """Memories that several different parameters share, such as a matrix and its transpose."""
    count: dict[int, int] = {}
    for one in shared:
        key = memory(one.tensor)
        count[key] = count.get(key, 0) + 1
    return frozenset(key for key, number in count.items() if number > 1)


def _static_reason(one: Shared, crowded: frozenset[int]) -> str:
    if any(type(place.module).__name__ == "ParametrizationList" for place in one.places):
        return "parametrized"
    if one.tensor.dtype not in _FLOATS:
        return f"{str(one.tensor.dtype).removeprefix('torch.')} weights stay as they are"
    if one.tensor.numel() == 0:
        return "empty"
    return "shares memory with another parameter" if memory(one.tensor) in crowded else ""


def _use_reason(seen: _Found) -> str:
    if not seen.axes:
        return UNUSED
    if len(set(seen.axes)) > 1:
        return f"used with different axes: {', '.join(sorted(set(seen.axes)))}"
    return ""
