"""Which products are, up to scaling and views, what a model returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.utils._pytree import tree_leaves

from higgsx.nn.operands import KEEPS_ORDER
from higgsx.nn.spaces import Activations

_SCALES = frozenset(
    ("add", "sub", "mul", "div", "true_divide", "multiply", "divide", "subtract", "neg", "clamp", "clip")
    + ("__add__", "__radd__", "__sub__", "__mul__", "__rmul__", "__truediv__", "truediv")
)
_RESHAPES = KEEPS_ORDER | frozenset(
    ("__getitem__", "select", "narrow", "split", "chunk", "unbind", "index_select", "expand", "dropout")
    + ("permute", "transpose", "swapaxes", "t", "movedim", "get T", "get mT", "where", "masked_fill")
)


class Results:
    """Follows the results of products through what only scales or re-arranges them."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self._products: dict[int, int] = {}
        self._capped: dict[int, int] = {}
        """Products after tanh: a soft cap if a multiplication follows, else an activation function."""
        self._count = 0

    def product(self, x: torch.Tensor) -> int:
        """Mark a tensor as the result of a product; gives the product's number."""
        self._count += 1
        self._products[self._activations.number(x)] = self._count
        return self._count

    def follow(
        self,
        name: str,
        given: Sequence[torch.Tensor],
        numbers: Mapping[int, int],
        made: Sequence[torch.Tensor],
    ) -> None:
        """given: arguments with the numbers they had before the call; made: results."""
        plain = name.removeprefix("__i").removesuffix("__") if name.startswith("__i") else name
        plain = plain.removesuffix("_") if not plain.endswith("__") else plain
        sources = [
            x for x in given if numbers.get(id(x)) in self._products or numbers.get(id(x)) in self._capped
        ]
        if len(sources) != 1 or not made:
            return
        number = numbers[id(sources[0])]
        product = self._products.get(number, self._capped.get(number, 0))
        if plain == "tanh":
            target = self._capped
        elif plain in _SCALES and all(self._scales(x, sources[0]) for x in given if x is not sources[0]):
            target = self._products if "mul" in plain or number in self._products else self._capped
        elif plain in _RESHAPES and given[0] is sources[0]:
            target = self._products if number in self._products else self._capped
        else:
            return
        for x in made:
            target.setdefault(self._activations.number(x), product)

    def _scales(self, x: torch.Tensor, source: torch.Tensor) -> bool:
        """A factor or bias of the model, not another activation."""
        return x.dim() == 0 or not self._activations.was_made(x)

    def behind(self, outputs: Iterable[torch.Tensor]) -> frozenset[int]:
        """Numbers of the products that these tensors are."""
        numbers = {self._activations.number(x) for x in outputs}
        return frozenset(self._products[number] for number in numbers if number in self._products)


def returned(result: object) -> list[torch.Tensor]:
    """What a model says, out of what its call returns: the logits where something is called so, else
    every tensor at the top, without caches and other objects."""
    if isinstance(result, torch.Tensor):
        return [result]
    if dataclasses.is_dataclass(result) and not isinstance(result, (type, Mapping)):
        result = {one.name: getattr(result, one.name) for one in dataclasses.fields(result)}
    if isinstance(result, Mapping):
        for fits in (_is_logits, _ends_in_logits):
            named = [value for key, value in result.items() if fits(str(key)) and value is not None]
            if named:
                return [x for x in tree_leaves(named) if isinstance(x, torch.Tensor)]
        return [value for value in result.values() if isinstance(value, torch.Tensor)]
    if isinstance(result, (tuple, list)):
        return [value for value in result if isinstance(value, torch.Tensor)]
    return []


def _is_logits(key: str) -> bool:
    return key == "logits"


def _ends_in_logits(key: str) -> bool:
    return "logits" in key
