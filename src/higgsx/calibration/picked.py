"""Which experts and outputs a part of a weight shows, when a model takes only some of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from higgsx.nn.operands import View

_PICKS = ("select", "narrow", "unbind", "chunk", "split", "tensor_split", "index_select", "__iter__")
_SAME_SHAPE = ("view", "reshape", "expand", "expand_as")


@dataclass(frozen=True)
class Picked:
    """maps  dimension of the parameter → int64 index along it of every entry of the view. A map has as many
    dimensions as the view and size 1 in those along which it is constant. Dimensions that are seen whole have
    no map."""

    maps: Mapping[int, Tensor] = field(default_factory=dict)

    def indices(self, view: View, dim: int, shape: torch.Size) -> Tensor:
        """The map of one dimension of the parameter, also where it is seen whole."""
        if dim in self.maps:
            return self.maps[dim]
        sizes = [shape[dim] if own == dim else 1 for own in view.dims]
        return torch.arange(shape[dim]).reshape(sizes)

    def whole(self, dim: int, size: int) -> bool:
        """Whether a dimension of the parameter is seen whole and in order."""
        one = self.maps.get(dim)
        return one is None or torch.equal(one.reshape(-1), torch.arange(size))

    def follow(
        self,
        func: Callable[..., Any],
        name: str,
        args: Sequence[Any],
        named: Mapping[str, Any],
        view: View,
        source: Tensor,
        made: Sequence[Tensor],
        place: int,
    ) -> Picked:
        """The same for one of the results of a function on the view, `operands.follow` having followed it.

        source       the view before the function
        made, place  all results, and which of them
        """
        maps = dict(self.maps)
        if name == "__getitem__" or name in _PICKS:
            for dim, own in enumerate(view.dims):
                if own is not None and own not in maps:
                    sizes = [source.shape[dim] if d == dim else 1 for d in range(source.dim())]
                    maps[own] = torch.arange(source.shape[dim]).reshape(sizes)
        if name in _SAME_SHAPE:
            new = (None,) * (made[place].dim() - source.dim())
            return Picked({own: one[new] if new else one for own, one in maps.items()})
        return Picked(
            {own: _applied(func, name, args, named, one, source, place) for own, one in maps.items()}
        )


def _applied(
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    named: Mapping[str, Any],
    one: Tensor,
    source: Tensor,
    place: int,
) -> Tensor:
    if name == "__getitem__":
        return _indexed(one, args[1])
    if name == "__iter__":
        return one.select(0, place if one.shape[0] > 1 else 0)
    if name in _PICKS:
        position = {"select": 1, "narrow": 1, "unbind": 1, "index_select": 1}.get(name, 2)
        dim = named.get("dim", args[position] if len(args) > position else 0) % source.dim()
        if one.shape[dim] == 1 != source.shape[dim]:
            return one.select(dim, 0) if name in ("select", "unbind") else one
        found = func(one, *args[1:], **named)
        return found if isinstance(found, Tensor) else found[place]
    if name in ("t", "transpose", "swapaxes", "swapdims", "permute", "unsqueeze", "adjoint"):
        return func(one, *args[1:], **named)
    return one.transpose(-1, -2) if name in ("get T", "get mT", "get H", "get mH") else one


def _indexed(one: Tensor, index: Any) -> Tensor:
    """`one[index]`, where a dimension of size 1 stands for one of any size whose entries are all equal."""
    parts = []
    dim = 0
    for part in index if isinstance(index, tuple) else (index,):
        if part is None or part is Ellipsis:
            parts.append(part)
            continue
        if one.shape[dim] == 1:
            if isinstance(part, slice):
                part = slice(None)
            elif isinstance(part, Tensor):
                part = torch.zeros([1] * part.dim(), dtype=torch.int64)
            else:
                part = 0
        parts.append(part)
        dim += 1
    return one[tuple(parts)]
