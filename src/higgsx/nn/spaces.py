"""Input spaces: which weights read one and the same activation.

An activation is known by its tensor object. What only re-arranges it in the same flat order (reshape, view,
flatten, a cast) keeps it; what changes it in place makes it another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch

from higgsx.nn.ties import memory

Space = Hashable
"""An activation together with where its features lie and how many there are."""


class Activations:
    """Numbers the activations of one forward pass. Keeps every tensor alive, so that ids stay unique."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[torch.Tensor, int, int]] = {}
        self._changed: dict[tuple[int, int, int], int] = {}
        self._made: set[int] = set()
        self._count = 0

    def number(self, tensor: torch.Tensor) -> int:
        """The same for tensors that hold the same activation now."""
        version = _version(tensor)
        if id(tensor) not in self._known:
            self._count += 1
            self._known[id(tensor)] = (tensor, self._count, version)
            return self._count
        _, number, before = self._known[id(tensor)]
        if version == before:
            return number
        # changed in place: views of one memory count their changes together and so stay one activation
        change = (number, memory(tensor), version)
        if change not in self._changed:
            self._count += 1
            self._changed[change] = self._count
        self._known[id(tensor)] = (tensor, self._changed[change], version)
        return self._changed[change]

    def keep(self, result: torch.Tensor, number: int) -> None:
        """`result` holds activation `number`, unless it is a tensor that was there before."""
        if id(result) not in self._known:
            self._known[id(result)] = (result, number, _version(result))

    def made(self, result: torch.Tensor) -> None:
        """`result` was computed; what is only given is an input, a constant or a parameter."""
        self._made.add(self.number(result))

    def was_made(self, tensor: torch.Tensor) -> bool:
        return self.number(tensor) in self._made


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)


def name_spaces(readers: Iterable[tuple[str, Iterable[Space]]]) -> dict[str, str]:
    """Reader → id of its input space: the first name, in sorted order, of all that share a space with it.

    readers  names with the spaces that each reads; one that reads several joins them, because a weight has
             one transform
    """
    parent: dict[str, str] = {}
    first: dict[Space, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for name, spaces in readers:
        parent.setdefault(name, name)
        for space in spaces:
            one, other = sorted((root(name), root(first.setdefault(space, name))))
            parent[other] = one
    return {name: root(name) for name in parent}
