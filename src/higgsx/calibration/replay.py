"""Runs of a model in which one block is changed, without computing the blocks before it again.

Blocks are the members of the outermost module lists: the layers of a decoder, or of an encoder and a decoder.
What is not computed again comes out of memory, so results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Replay:
    """Of one model and one sequence of batches, always run in the same order."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._blocks = dict(_blocks(model, ""))
        self._outputs: dict[str, list[Any]] = {name: [] for name in self._blocks}
        self._spans: dict[str, tuple[int, int]] = {}

    @contextmanager
    def recording(self, batches: int) -> Iterator[None]:
        """The first run, over so many batches. Blocks that do not run once for each are always computed."""
        clock = 0
        begun: dict[str, int] = {}

        def begin(name: str, *_: object) -> None:
            nonlocal clock
            clock += 1
            begun.setdefault(name, clock)

        def end(name: str, module: nn.Module, arguments: object, output: object) -> None:
            nonlocal clock
            clock += 1
            self._spans.setdefault(name, (begun[name], clock))
            self._outputs[name].append(tree_map(_copied, output))

        hooks = []
        for name, block in self._blocks.items():
            hooks.append(block.register_forward_pre_hook(partial(begin, name)))
            hooks.append(block.register_forward_hook(partial(end, name)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        self._outputs = {name: kept for name, kept in self._outputs.items() if len(kept) == batches}

    @contextmanager
    def changed(self, names: Sequence[str]) -> Iterator[None]:
        """One more run over all batches, in which only these parameters differ."""
        first = min((self._spans.get(block, (0, 0))[0] for block in self._holders(names)), default=0)
        over = [name for name in self._outputs if self._spans[name][1] < first]
        for name in over:
            self._blocks[name].forward = partial(_next, iter(self._outputs[name]))
        try:
            yield
        finally:
            for name in over:
                del self._blocks[name].forward

    def _holders(self, names: Sequence[str]) -> Iterator[str]:
        """Blocks with these parameters, under every name that those have; "" for what is in none."""
        every = dict(self._model.named_parameters(remove_duplicate=False))
        wanted = {id(every[name]) for name in names}
        for name, parameter in every.items():
            if id(parameter) in wanted:
                yield next((block for block in self._blocks if name.startswith(f"{block}.")), "")


def _blocks(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList):
            yield prefix + name, child
        else:
            yield from _blocks(child, f"{prefix}{name}.")


def _copied(leaf: object) -> object:
    """Who gets a block's output may write into it."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _next(outputs: Iterator[object], *_: object, **__: object) -> object:
    return tree_map(_copied, next(outputs))
