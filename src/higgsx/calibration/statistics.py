"""What was learned of every row of every weight: two numbers a row, and of every weight how far the second
order holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

UNITS = {"logits": "nats per token", "vectors": "relative squared error"}


@dataclass(frozen=True)
class Bend:
    """How the loss of a weight leaves the second order: `factor · (1 + slope · e)` times it.

    blocks  slope for codes with a scale for each block of inputs
    rows    slope for codes with one scale for a whole row, whose errors are less like white noise
    """

    factor: float = 1.0
    blocks: float = 0.0
    rows: float = 0.0

    def of(self, error: float, whole_rows: bool) -> float:
        """What the second-order loss at relative squared error `error` is to be multiplied with."""
        return self.factor * (1 + (self.rows if whole_rows else self.blocks) * error)


@dataclass(frozen=True)
class Statistics:
    """r       parameter name → float64 `[rows]`: mean over tokens of g² · |x|², experts one after the other
    powers  parameter name → float64 `[rows]`: squared length of each row of the weight, in the same order
    tokens  positions that were scored
    unit    what ½ · Σ r · mse is: nats per token, or the relative squared error of the outputs
    text    what was read, in words
    bends   parameter name → how coarse errors differ; without one it is taken as straight
    columns parameter name → float64 `[inputs]`: mean over tokens of |g|² · x_j², for channel scales; empty
            once those have been applied
    """

    r: Mapping[str, Tensor]
    powers: Mapping[str, Tensor]
    tokens: int
    unit: str
    text: str
    bends: Mapping[str, Bend] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)

    def weight(self, name: str, inputs: int) -> float:
        """Loss of a weight for one unit of relative squared error, the same in all rows, as the second order
        says: `½ Σ r |W|² / inputs`."""
        return float(0.5 * (self.r[name] * self.powers[name]).sum() / inputs)

    def loss(self, name: str, inputs: int, error: float, whole_rows: bool = False) -> float:
        """Predicted loss of a weight that is stored with this relative squared error."""
        return self.weight(name, inputs) * error * self.bend(name).of(error, whole_rows)

    def bend(self, name: str) -> Bend:
        return self.bends.get(name, _STRAIGHT)


_STRAIGHT = Bend()


def kind_of(name: str) -> str:
    """The same for a weight's place in every layer."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))
