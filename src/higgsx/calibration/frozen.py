"""A model that is only looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from higgsx.nn.evaluating import evaluating


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no parameter asks for a gradient; afterwards all is as it was."""
    parameters = [(one, one.requires_grad) for one in model.parameters()]
    with evaluating([model]):
        try:
            for one, _ in parameters:
                one.requires_grad_(False)
            yield
        finally:
            for one, wanted in parameters:
                one.requires_grad_(wanted)
