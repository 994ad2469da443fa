"""Texts as vectors."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from higgsx.errors import ModelError
from higgsx.tasks.example import Example, Keywords

Pooling = Literal["mean", "first", "last"]


class TextVectors(Keywords):
    """Hidden states of the tokens of texts.

    A batch is an `Example` of several texts with their `attention_mask` [B, T]; positions are B · T, and only
    real tokens count. `pooled` is what a whole text is compared by.

    pooling  mean over real tokens, or the vector of the first or the last real token
    """

    kind = "encoder"
    outputs: Literal["vectors"] = "vectors"

    def __init__(self, pooling: Pooling = "mean") -> None:
        self.pooling = pooling

    def read(self, output: Any) -> Tensor:
        found = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
        if not isinstance(found, Tensor):
            raise ModelError("the model returns no hidden states", got=type(output).__name__)
        return found

    def pooled(self, rows: Tensor, batch: Example) -> Tensor:
        """One vector for each text [B, H], from rows [B · T, H]."""
        mask: Tensor = batch.inputs["attention_mask"].to(rows.device)
        states = rows.view(*mask.shape, rows.shape[-1])
        if self.pooling == "mean":
            weights = mask.to(rows.dtype)[..., None]
            return (states * weights).sum(1) / weights.sum(1)
        places = mask.argmax(1) if self.pooling == "first" else mask.shape[1] - 1 - mask.flip(1).argmax(1)
        return states[range(len(mask)), places]
