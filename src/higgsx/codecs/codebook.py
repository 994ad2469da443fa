"""Levels from a constant table of int8 entries (`grids.py`), 4 to 32 of them: `s · table[c]`.

Registers hold such a table whole, so that a kernel looks codes up without touching memory. Finding the
nearest entry takes one step: a table over cells that are half a unit wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from higgsx.codecs.base import require
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import PanelCodec
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

_CELLS = 512


@dataclass(frozen=True)
class Codebook(PanelCodec):
    table: str
    block: int
    scale: str
    exponent: int

    id: ClassVar[str] = "codebook"
    zero: ClassVar[str] = "none"  # type: ignore[misc]

    def __post_init__(self) -> None:
        known = isinstance(self.table, str) and self.table in TABLES
        require(known, self.id, "table", self.table, sorted(TABLES))
        self._check_panel_params()

    @classmethod
    def plain(cls, table: str, block: int, exponent: int = 0) -> Codebook:
        """The planner's form: byte scales for blocks, one float16 for a whole row."""
        return cls(table, block, "u8" if block else "f16", exponent)

    @property
    def label(self) -> str:
        name = f"{self.table}.{f'b{self.block}' if self.block else 'row'}"
        return name if self.scale == ("u8" if self.block else "f16") else f"{name}.{self.scale}"

    @property
    def code_bits(self) -> int:
        return (len(TABLES[self.table]) - 1).bit_length()

    def levels(self) -> torch.Tensor:
        return torch.tensor(TABLES[self.table], dtype=torch.float32)

    @property
    def cell(self) -> float:
        return 2.0

    @property
    def shift(self) -> float:
        return _CELLS / 2

    def snap(self, t: torch.Tensor, out: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        index.copy_(torch.clamp(t, 0, _CELLS - 1, out=out))
        torch.index_select(_cells(self.table)[0], 0, index.view(-1), out=out.view(-1))
        return out

    def codes(self, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        index.copy_(t.clamp_(0, _CELLS - 1))
        return _cells(self.table)[1].index_select(0, index.view(-1)).view(t.shape)


@lru_cache(maxsize=16)
def _cells(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """For every cell (half a unit wide, −128 to 128): nearest level in cells, and its code.

    Entries are whole numbers, so thresholds between them are multiples of one half and no cell holds one
    inside: all of a cell has the same nearest level.
    """
    levels = TABLES[name]
    middles = [(cell + 0.5 - _CELLS / 2) / 2 for cell in range(_CELLS)]
    codes = [min(range(len(levels)), key=lambda code: abs(levels[code] - middle)) for middle in middles]
    values = [levels[code] * 2.0 + _CELLS / 2 for code in codes]
    return torch.tensor(values, dtype=torch.float32), torch.tensor(codes, dtype=torch.uint8)
