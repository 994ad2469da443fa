"""A batch as keyword arguments of a model, and what most tasks do with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from higgsx.errors import ModelError
from higgsx.tasks.base import NO_LABEL


@dataclass(frozen=True)
class Example:
    """inputs  keyword arguments of one forward pass; floating-point ones get the model's dtype
    labels  int64 [positions]: see `Task.labels`
    right   what a person said is the right answer, for each item of the batch: alternatives of which any will
            do. Empty where nobody said it
    """

    inputs: Mapping[str, Any]
    labels: Tensor
    right: tuple[tuple[str, ...], ...] = ()


class Keywords:
    """What tasks share whose batch is an `Example`: `model(**inputs)`, and of its output the rows."""

    kind: str
    outputs: Literal["logits", "vectors"] = "logits"

    def call(self, model: Any, batch: Example) -> Tensor:
        found = self.read(model(**placed(batch.inputs, model)))
        rows = found.reshape(-1, found.shape[-1]) if found.dim() > 1 else found[None]
        if len(rows) != len(batch.labels):
            raise ModelError(
                "outputs for another number of positions than the batch has",
                got=f"{len(rows)}, from shape {tuple(found.shape)}",
                expected=len(batch.labels),
            )
        return rows

    def read(self, output: Any) -> Tensor:
        """The scores or vectors [..., outputs] in what the model returns."""
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(found, Tensor):
            raise ModelError("the model returns no logits", got=type(output).__name__)
        return found

    def labels(self, batch: Example) -> Tensor:
        return batch.labels

    def tokens(self, batch: Example) -> int:
        return int((batch.labels != NO_LABEL).sum())

    def pieces(self, model: Any, batch: Example, positions: int) -> Iterator[Tensor]:
        yield from self.call(model, batch).split(positions)


def placed(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Tensors on the model's device, floating-point ones in its dtype; anything else as it is."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    first = next((one for one in parameters if one.is_floating_point()), None)
    if first is None:
        return dict(inputs)
    return {
        name: value.to(first.device, first.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in inputs.items()
    }


def shifted(sequence: Tensor, given: int) -> tuple[Tensor, Tensor]:
    """Teacher forcing of one sequence [n]: what the decoder is given [1, n-1], and labels [n-1] of what it
    must say next. The first `given` tokens are never asked for."""
    labels = sequence[1:].clone()
    labels[: max(0, given - 1)] = NO_LABEL
    return sequence[None, :-1], labels


def padded(rows: list[Tensor], value: int) -> Tensor:
    """Rows of different length [n_i] side by side [B, n], filled up at the end."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
