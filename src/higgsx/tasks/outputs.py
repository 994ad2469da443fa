"""Whatever a model gives: for models whose work nobody described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from higgsx.errors import ModelError
from higgsx.tasks.example import Keywords


class Outputs(Keywords):
    """The first floating-point tensor of a model's output as rows of vectors, every one of which counts.

    It knows no right answer: all that can be told is how far outputs move.
    """

    kind = "outputs"
    outputs: Literal["vectors"] = "vectors"

    def read(self, output: Any) -> Tensor:
        found = first_floats(output)
        if found is None:
            raise ModelError("the model returns no numbers", got=type(output).__name__)
        return found


def first_floats(output: Any) -> Tensor | None:
    """The first floating-point tensor of an output: a tensor, a mapping, a sequence, or a mixture."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.dim() else None
    members = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, (Mapping, tuple, list)):
        return None
    return next((found for member in members if (found := first_floats(member)) is not None), None)
