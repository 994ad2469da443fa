"""Predict the next token."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from higgsx.errors import ModelError
from higgsx.tasks.base import NO_LABEL


def call_plainly(model: Any, window: Tensor) -> Tensor:
    """`model(window)`: a tensor of logits, or an object that has them as `.logits`."""
    output = model(window)
    return output if isinstance(output, Tensor) else output.logits


class LanguageModel:
    """Predict the next token. A batch is one window: int64 token ids [1, T].

    `forward(model, window)` returns logits [1, T, V]. `head(model)` names the module whose output is the
    logits, or None. With it `pieces` runs the model once, keeps what enters the head, and runs the head on a
    few positions at a time, so that the logits of a window never stand in memory whole. A model that still
    changes the logits after its head (a cap, a scale) is noticed and called whole.
    """

    kind = "language"
    outputs: Literal["logits"] = "logits"

    def __init__(
        self,
        forward: Callable[[Any, Tensor], Tensor] = call_plainly,
        head: Callable[[Any], nn.Module | None] | None = None,
    ) -> None:
        self._forward, self._head = forward, head
        self._whole: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def call(self, model: Any, batch: Tensor) -> Tensor:
        logits = self._forward(model, batch.to(_device(model)))
        if logits.dim() != 3 or logits.shape[0] != 1:
            raise ModelError("logits of the wrong shape", got=tuple(logits.shape), expected="[1, T, V]")
        return logits[0]

    def labels(self, batch: Tensor) -> Tensor:
        end = torch.full((1,), NO_LABEL, dtype=torch.int64, device=batch.device)
        return torch.cat([batch[0, 1:], end])

    def tokens(self, batch: Tensor) -> int:
        return batch.shape[1] - 1

    def pieces(self, model: Any, batch: Tensor, positions: int) -> Iterator[Tensor]:
        head = None if self._head is None or model in self._whole else self._head(model)
        hidden = None if head is None else self._before_head(model, head, batch)
        if head is None or hidden is None:
            yield from self.call(model, batch).split(positions)
            return
        for part in hidden.split(positions, dim=1):
            yield head(part)[0]

    def stages(self, model: Any, batch: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """What enters the head [T, H], and the head of some rows of it; None where the logits come whole."""
        head = None if self._head is None or model in self._whole else self._head(model)
        hidden = None if head is None else self._before_head(model, head, batch)
        if head is None or hidden is None:
            return None
        return hidden[0], lambda rows: head(rows[None])[0]

    def _before_head(self, model: Any, head: nn.Module, batch: Tensor) -> Tensor | None:
        """What enters the head [1, T, H], or None if the head's output is not the model's."""
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []

        def keep_last(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            inputs.append(args[0])
            return (args[0][:, -1:], *args[1:])

        def watch(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            outputs.append(output)

        with ExitStack() as hooks:
            hooks.callback(head.register_forward_pre_hook(keep_last).remove)
            hooks.callback(head.register_forward_hook(watch).remove)
            last = self.call(model, batch)
        whole = len(inputs) == 1 and inputs[0].dim() == 3 and inputs[0].shape[:2] == batch.shape
        if whole and last.shape == outputs[0].shape[1:] and torch.equal(last.float(), outputs[0][0].float()):
            return inputs[0]
        self._whole.add(model)
        return None


def _device(model: Any) -> torch.device | None:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return None if first is None else first.device
