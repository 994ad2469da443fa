"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(models: Sequence[Any]) -> Iterator[None]:
    """Dropout off; afterwards every submodule is as it was. What is no module is left alone."""
    modules = [part for model in models if isinstance(model, nn.Module) for part in model.modules()]
    before = [(part, part.training) for part in modules]
    try:
        for part in modules:
            part.training = False
        yield
    finally:
        for part, training in before:
            part.training = training
