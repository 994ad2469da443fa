"""Equally spaced levels: `s · (c − z)` or `s · c + m`.

Without zero points the grid is centred: level of code c is `(2c − centre) / 2`. `centre = 2^bits − 1` (the
default) puts no level on zero and has the least error on symmetric weights; `centre = 2^bits` is two's
complement, as other formats have it. With zero points `centre` is 0 and z or m is stored per block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from higgsx.codecs.base import is_int, require
from higgsx.codecs.panels import PanelCodec
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

BITS = (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Uniform(PanelCodec):
    bits: int
    block: int
    scale: str
    zero: str
    centre: int
    exponent: int

    id: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        require(is_int(self.bits) and self.bits in BITS, self.id, "bits", self.bits, BITS)
        self._check_panel_params()
        most = 0 if self.zero != "none" else 1 << (self.bits + 1)
        require(
            is_int(self.centre) and 0 <= self.centre <= most, self.id, "centre", self.centre, f"0 to {most}"
        )

    @classmethod
    def symmetric(cls, bits: int, block: int, exponent: int = 0) -> Uniform:
        """The planner's form: centred grid, byte scales for blocks, one float16 for a whole row."""
        return cls(bits, block, "u8" if block else "f16", "none", (1 << bits) - 1, exponent)

    @property
    def label(self) -> str:
        name = f"int{self.bits}.{f'b{self.block}' if self.block else 'row'}"
        plain = self.scale == ("u8" if self.block else "f16") and self.zero == "none"
        return name if plain else f"{name}.{self.scale}.{self.zero}"

    @property
    def code_bits(self) -> int:
        return self.bits

    def levels(self) -> torch.Tensor:
        return (2 * torch.arange(1 << self.bits, dtype=torch.float32) - self.centre) * 0.5

    @property
    def cell(self) -> float:
        return 1.0

    @property
    def shift(self) -> float:
        return self.centre * 0.5

    def snap(self, t: torch.Tensor, out: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return torch.clamp(t, 0, (1 << self.bits) - 1, out=out).round_()

    def codes(self, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        # by way of int16: torch converts float32 to uint8 one by one
        return t.round_().clamp_(0, (1 << self.bits) - 1).to(torch.int16).to(torch.uint8)
