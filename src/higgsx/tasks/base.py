"""What a batch is, how a model is called, what its outputs and labels are: plain objects.

Calibration and fidelity know a model only through these. Integrations make them, from a Hugging Face folder
for example. Nothing here imports another part of the package but its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

NO_LABEL = -1
"""The label of a position at which nothing is predicted."""
Part = Literal["calibration", "check"]
"""What is learned from, and what is measured on."""


class ModelHandle(Protocol):
    """A model that can be built and called without knowing where it comes from."""

    @property
    def names(self) -> Mapping[str, str]:
        """Tensor name in the checkpoint → parameter name in the model."""
        ...

    @property
    def unmapped(self) -> Mapping[str, str]:
        """Tensor name in the checkpoint → why it is no parameter of the model as it is."""
        ...

    def skeleton(self) -> nn.Module:
        """The model on the meta device: shapes and structure, no weights."""
        ...

    def small(self) -> nn.Module | None:
        """A small real instance of the same class with random weights; None where there is none."""
        ...

    def call(self, model: nn.Module) -> object:
        """A tiny forward pass on the device that the model is on, the meta device too. Returns its output."""
        ...

    def materialise(self, dtype: torch.dtype) -> nn.Module:
        """The original model with its weights in `dtype`, in evaluation mode."""
        ...


class Task(Protocol):
    """A kind of work whose outputs are one row of numbers at each of several positions.

    kind     what it is: "language", "speech", "pairs", "encoder", "image", "labels", "outputs"
    outputs  what a row is: "logits", scores over a fixed set; "vectors", hidden states
    """

    @property
    def kind(self) -> str: ...

    @property
    def outputs(self) -> Literal["logits", "vectors"]: ...

    def call(self, model: Any, batch: Any) -> Tensor:
        """Rows [positions, outputs] of the model for one batch; differentiable where gradients are on."""
        ...

    def pieces(self, model: Any, batch: Any, positions: int) -> Iterator[Tensor]:
        """The rows of `call` in order, `positions` at a time (the last piece may be shorter)."""
        ...

    def labels(self, batch: Any) -> Tensor:
        """int64 [positions]: the right output at each position, or `NO_LABEL` where it does not count.
        Of vectors 0 where a position counts."""
        ...

    def tokens(self, batch: Any) -> int:
        """Positions that count."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What batches are asked for.

    most_tokens  positions that count, at most; one batch is always made
    path         material of the user's; None: from nothing (the package's openings continued by the model,
                 synthesised sounds …)
    window       tokens of a window, None: as the task likes it
    part         from nothing the parts draw differently, so that damage is never measured on what was learned
                 from
    shared       `path` serves both parts: each sees its own share of it, cut by a fixed rule
    """

    most_tokens: int
    path: Path | None = None
    window: int | None = None
    part: Part = "check"
    shared: bool = False

    @property
    def seed(self) -> int:
        """Of the first thing that is drawn; the next ones take the numbers after it."""
        return 0 if self.part == "check" else 1000


@dataclass(frozen=True)
class Batches:
    """What a model is run on: domain → batches of its task; and in words, for the damage record."""

    members: Mapping[str, Sequence[Any]]
    described: str

    def all(self) -> list[Any]:
        """Every batch, domain after domain."""
        return [batch for members in self.members.values() for batch in members]


@dataclass(frozen=True)
class Encoder:
    """How text becomes token ids, without special tokens.

    `vocabulary` is the number of outputs of the model: every id must be smaller. `first` is the
    beginning-of-text token, or None if the model has none.
    """

    encode: Callable[[str], Sequence[int]]
    vocabulary: int
    first: int | None = None
