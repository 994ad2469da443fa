"""A model that is only looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter asks for a gradient; afterwards all is as it was."""
    parts = [(part, part.training) for part in model.modules()]
    parameters = [(one, one.requires_grad) for one in model.parameters()]
    try:
        for part, _ in parts:
            part.training = False
        for one, _ in parameters:
            one.requires_grad_(False)
        yield
    finally:
        for part, training in parts:
            part.training = training
        for one, wanted in parameters:
            one.requires_grad_(wanted)
