"""The layout that `uniform` and `codebook` share: panels of 16 outputs, units of 128 inputs.

A panel is its units in the order of the inputs; the last unit is shorter where the row ends, padded to a
multiple of 32 inputs. A unit is the bit planes of its codes (see `bits.py`), then its scales, then its zero
points, 16 of each per scale block. A scale block that the end of a unit or row cuts keeps a scale of its
own. What belongs to whole rows stands in a second array, one entry per panel: 16 row scales (float16), then
16 row zero points. docs/format.md is normative.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from higgsx.codecs.base import Arrays, ArrayShape, Codec, MatrixShape, is_int, require
from higgsx.codecs.bits import PANEL, pack_planes, unpack_planes
from higgsx.errors import UsageError
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

UNIT = 128
"""Inputs of a unit."""
GRAIN = 32
"""Units are padded to a multiple of this many inputs."""
BLOCKS = (0, 32, 64, 128)
"""Inputs of a scale block; 0 is the whole row."""
ZERO_BYTES = {"none": 0, "u8": 1, "f16": 2, "min": 2}
SCALE_BYTES = {"u8": 1, "f16": 2}
MAX_EXPONENT = 64
_SLAB = 1 << 21
"""Weights decoded at a time: temporaries stay within the cache and within bounds."""


@dataclass(frozen=True)
class Unit:
    begin: int
    width: int
    """Inputs that exist."""
    padded: int
    offset: int
    """Where it begins within its panel, in bytes."""
    code_bytes: int
    nbytes: int


@dataclass(frozen=True)
class Group:
    """Equal units that follow each other.

    unit         the first of them
    blocks       scale blocks of each
    first_block  the first of all of them within the row
    """

    unit: Unit
    count: int
    blocks: int
    first_block: int

    @property
    def end(self) -> int:
        """Where the bytes after them begin within the panel."""
        return self.unit.offset + self.count * self.unit.nbytes

    def view(self, payload: torch.Tensor) -> torch.Tensor:
        """Their bytes, `[panels, count, bytes]`."""
        return payload[:, self.unit.offset : self.end].unflatten(1, (self.count, self.unit.nbytes))


@dataclass(frozen=True)
class Scales:
    """What multiplies and shifts the codes of a slab of rows, as it is stored.

    block  uint8 or float16 `[blocks, rows]`, None where one scale serves the whole row
    row    float16 `[rows]`, None where every block has a float16 of its own
    zero   uint8 or float16, `[blocks, rows]` (`[1, rows]` for whole rows), None without zero points
    """

    block: torch.Tensor | None
    row: torch.Tensor | None
    zero: torch.Tensor | None


class PanelCodec(Codec):
    """Codes on a grid, times a scale. Subclasses are frozen dataclasses with these fields."""

    block: int
    scale: str
    zero: str
    exponent: int

    @property
    @abstractmethod
    def code_bits(self) -> int: ...

    @abstractmethod
    def levels(self) -> torch.Tensor:
        """float32 value of every code at scale one, exact."""

    @property
    @abstractmethod
    def cell(self) -> float:
        """Cells per unit of the grid, a power of two. What is to be rounded is measured in *cells*:
        `t = x / scale · cell + shift`, so that finding the nearest level takes few operations."""

    @property
    @abstractmethod
    def shift(self) -> float: ...

    @abstractmethod
    def snap(self, t: torch.Tensor, out: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The level nearest to `t`, in cells, into `out` (it may be `t`); `index` is int32 scratch space.

        Exact but for ties and for what rounding `t` to float32 moves: less than 2^-14 of a cell.
        """

    @abstractmethod
    def codes(self, t: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """uint8 codes of those levels. Overwrites `t`. All three are contiguous and of one size."""

    def nearest_codes(self, y: torch.Tensor) -> torch.Tensor:
        """uint8 codes of the levels nearest to `y`."""
        t = (y * self.cell).add_(self.shift).contiguous()
        return self.codes(t, torch.empty(t.shape, dtype=torch.int32))

    def nearest_values(self, y: torch.Tensor) -> torch.Tensor:
        """The levels nearest to `y`."""
        t = (y * self.cell).add_(self.shift).contiguous()
        return self.snap(t, t, torch.empty(t.shape, dtype=torch.int32)).sub_(self.shift).div_(self.cell)

    def _check_panel_params(self) -> None:
        require(is_int(self.block) and self.block in BLOCKS, self.id, "scale block", self.block, BLOCKS)
        known = isinstance(self.scale, str) and self.scale in SCALE_BYTES
        require(known, self.id, "scale format", self.scale, tuple(SCALE_BYTES))
        known = isinstance(self.zero, str) and self.zero in ZERO_BYTES
        require(known, self.id, "zero point format", self.zero, tuple(ZERO_BYTES))
        require(self.block != 0 or self.scale == "f16", self.id, "scale of a whole row", self.scale, "f16")
        within = is_int(self.exponent) and abs(self.exponent) <= MAX_EXPONENT
        require(within, self.id, "exponent", self.exponent, f"-{MAX_EXPONENT} to {MAX_EXPONENT}")

    @cached_property
    def _row_bytes(self) -> int:
        """Bytes of the second array for each row."""
        if self.block == 0:
            return 2 + ZERO_BYTES[self.zero]
        return 2 if self.scale == "u8" else 0

    @property
    def _block_bytes(self) -> int:
        """Bytes inside a unit for each row and scale block."""
        return 0 if self.block == 0 else SCALE_BYTES[self.scale] + ZERO_BYTES[self.zero]

    def accepts(self, shape: MatrixShape, dtype: str) -> str | None:
        if dtype not in ("F32", "F16", "BF16"):
            return f"{self.id} holds floating-point weights, not {dtype}"
        return None

    def groups(self, inputs: int) -> tuple[Group, ...]:
        """The units of a panel: the full ones, then the one that the end of the row cuts."""
        return _groups(inputs, self.code_bits, self.block, self._block_bytes)

    def panel_bytes(self, inputs: int) -> int:
        return self.groups(inputs)[-1].end

    def blocks(self, inputs: int) -> Iterator[tuple[int, int]]:
        """Begin and width of every scale block."""
        step = self.block or inputs
        for begin in range(0, inputs, step):
            yield begin, min(step, inputs - begin)

    def arrays(self, shape: MatrixShape) -> dict[str, ArrayShape]:
        panels = math.ceil(shape.outputs / PANEL)
        arrays = {"_hgs": ArrayShape("U8", (*shape.lead, panels, self.panel_bytes(shape.inputs)))}
        if self._row_bytes:
            arrays["_hgsr"] = ArrayShape("U8", (*shape.lead, panels, PANEL * self._row_bytes))
        return arrays

    def pack(self, codes: torch.Tensor, scales: Scales) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Bytes of a slab of rows.

        codes uint8 `[inputs, rows]`; rows are padded to whole panels here. Returns payload
        `[panels, bytes]` and what belongs to whole rows, `[panels, bytes]` or None.
        """
        inputs, rows = codes.shape
        panels = math.ceil(rows / PANEL)
        out = torch.empty((panels, self.panel_bytes(inputs)), dtype=torch.uint8)
        for group in self.groups(inputs):
            unit, count = group.unit, group.count
            part = _pad(
                codes[unit.begin : unit.begin + count * unit.width], count * unit.padded, panels * PANEL
            )
            target = group.view(out)
            pack_planes(part, self.code_bits, count, target.view(torch.int32)[:, :, : unit.code_bytes // 4])
            begin = unit.code_bytes
            for values in (scales.block, scales.zero) if self.block else ():
                if values is None:
                    continue
                of_units = values[group.first_block : group.first_block + count * group.blocks]
                flat = _bytes_by_panel(of_units, panels).view(panels, count, -1)
                target[:, :, begin : begin + flat.shape[2]] = flat
                begin += flat.shape[2]
        return out, self._pack_rows(scales, panels)

    def _pack_rows(self, scales: Scales, panels: int) -> torch.Tensor | None:
        if not self._row_bytes or scales.row is None:
            return None
        parts = [_bytes_by_panel(scales.row[None], panels)]
        if self.block == 0 and scales.zero is not None:
            parts.append(_bytes_by_panel(scales.zero, panels))
        return torch.cat(parts, dim=1)

    def decode(self, arrays: Arrays, shape: MatrixShape) -> torch.Tensor:
        payload, rows = self._flat(arrays)
        out = torch.empty((payload.shape[0], PANEL, shape.inputs), dtype=torch.float32, device=payload.device)
        step = max(1, _SLAB // (PANEL * shape.inputs))
        for begin in range(0, payload.shape[0], step):
            part = rows[begin : begin + step] if rows is not None else None
            out[begin : begin + step] = self._decode_panels(payload[begin : begin + step], part, shape.inputs)
        return out.view(*shape.lead, -1, shape.inputs)[..., : shape.outputs, :]

    def decode_rows(self, arrays: Arrays, shape: MatrixShape, rows: torch.Tensor) -> torch.Tensor:
        payload, of_rows = self._flat(arrays)
        if rows.numel() == 0:
            return torch.empty((0, shape.inputs), dtype=torch.float32, device=payload.device)
        panels, inverse = torch.unique(rows // PANEL, return_inverse=True)
        picked = None if of_rows is None else of_rows[panels]
        return self._decode_panels(payload[panels], picked, shape.inputs)[inverse, rows % PANEL]

    def unpack(
        self, payload: torch.Tensor, of_rows: torch.Tensor | None, inputs: int
    ) -> tuple[torch.Tensor, Scales]:
        """The inverse of `pack`: codes `[panels, 16, inputs]`, scales with rows as `[.., panels * 16]`."""
        parts = []
        for group in self.groups(inputs):
            packed = group.view(payload)[:, :, : group.unit.code_bytes]
            codes = unpack_planes(packed, self.code_bits, group.unit.padded)
            parts.append(codes[:, :, : group.count * group.unit.width])
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return joined, self._read_scales(payload, of_rows, inputs)

    def check(self, arrays: Arrays, shape: MatrixShape) -> list[str]:
        payload, of_rows = self._flat(arrays)
        scales = self._read_scales(payload, of_rows, shape.inputs)
        complaints = [
            f"{what} is not finite"
            for what, values in (
                ("a scale", scales.block),
                ("a row scale", scales.row),
                ("a zero point", scales.zero),
            )
            if values is not None and values.dtype == torch.float16 and not bool(torch.isfinite(values).all())
        ]
        if self._padding_is_used(payload, of_rows, shape):
            complaints.append("padding is not zero")
        return complaints

    def _padding_is_used(
        self, payload: torch.Tensor, of_rows: torch.Tensor | None, shape: MatrixShape
    ) -> bool:
        last = self.groups(shape.inputs)[-1].unit
        if last.padded != last.width:
            unit = payload[:, None, last.offset : last.offset + last.code_bytes]
            if bool(unpack_planes(unit, self.code_bits, last.padded)[:, :, last.width :].any()):
                return True
        spare = -shape.outputs % PANEL
        if not spare:
            return False
        panels = math.ceil(shape.outputs / PANEL)
        ends = slice(panels - 1, None, panels)
        codes, scales = self.unpack(payload[ends], None if of_rows is None else of_rows[ends], shape.inputs)
        used = codes[:, PANEL - spare :].any()
        for values in (scales.block, scales.row, scales.zero):
            if values is not None:
                bits = (
                    values if values.dtype == torch.uint8 else values.view(torch.int16)
                )  # −0 is not padding
                used |= bits.view(*bits.shape[:-1], -1, PANEL)[..., PANEL - spare :].any()
        return bool(used)

    def _flat(self, arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor | None]:
        rows = arrays.get("_hgsr")
        return arrays["_hgs"].flatten(0, -2), None if rows is None else rows.flatten(0, -2)

    def _read_scales(self, payload: torch.Tensor, of_rows: torch.Tensor | None, inputs: int) -> Scales:
        row = zero = block = None
        if of_rows is not None:
            row = _from_bytes(of_rows[:, : 2 * PANEL], "f16").reshape(-1)
            if self.block == 0 and self.zero != "none":
                zero = _from_bytes(of_rows[:, 2 * PANEL :], self.zero).reshape(1, len(of_rows) * PANEL)
        if self.block:
            block = self._read_blocks(payload, inputs, 0, self.scale)
            if self.zero != "none":
                zero = self._read_blocks(payload, inputs, SCALE_BYTES[self.scale], self.zero)
        return Scales(block, row, zero)

    def _read_blocks(self, payload: torch.Tensor, inputs: int, before: int, kind: str) -> torch.Tensor:
        parts = []
        for group in self.groups(inputs):
            begin = group.unit.code_bytes + before * PANEL * group.blocks
            size = (SCALE_BYTES | ZERO_BYTES)[kind] * PANEL * group.blocks
            values = _from_bytes(group.view(payload)[:, :, begin : begin + size], kind)
            parts.append(values.reshape(payload.shape[0], group.count * group.blocks, PANEL))
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return joined.transpose(0, 1).reshape(joined.shape[1], joined.shape[0] * PANEL)

    def multipliers(self, scales: Scales) -> torch.Tensor:
        """float32 `[blocks, rows]`: the scale of every block; exact products, so nothing is rounded here."""
        scale = scales.row if scales.block is None else scales.block
        if scale is None:
            raise UsageError("scales without a scale", where=self.id)
        of_blocks = scale.float().view(-1, scale.shape[-1])
        if scales.block is not None and scales.row is not None:
            of_blocks = of_blocks * scales.row.float()
        return of_blocks * 2.0**self.exponent

    def _decode_panels(
        self, payload: torch.Tensor, of_rows: torch.Tensor | None, inputs: int
    ) -> torch.Tensor:
        """float32 `[panels, 16, inputs]`. Order of operations is normative: level, zero, scale, minimum."""
        codes, scales = self.unpack(payload, of_rows, inputs)
        panels = codes.shape[0]
        table = self.levels().to(payload.device)
        values = table.index_select(0, codes.reshape(-1).int()).view(panels, PANEL, inputs)
        multipliers = self.multipliers(scales)
        step = self.block or inputs
        full = inputs // step
        for first, count, width in ((0, full, step), (full, 1, inputs - full * step)):
            if not count or not width:
                continue
            part = values[:, :, first * step : first * step + count * width].unflatten(2, (count, width))
            zero = None
            if scales.zero is not None:
                zero = _by_panel(scales.zero[first : first + count].float(), panels)
            if zero is not None and self.zero != "min":
                part -= zero
            part *= _by_panel(multipliers[first : first + count], panels)
            if zero is not None and self.zero == "min":
                part += zero
        return values


@lru_cache(maxsize=4096)
def _groups(inputs: int, bits: int, block: int, block_bytes: int) -> tuple[Group, ...]:
    full, rest = divmod(inputs, UNIT)
    groups: list[Group] = []
    for count, width in ((full, UNIT), (1, rest)):
        if not count or not width:
            continue
        padded = -(-width // GRAIN) * GRAIN
        code_bytes = padded * PANEL * bits // 8
        blocks = math.ceil(width / block) if block else 0
        offset = groups[-1].end if groups else 0
        unit = Unit(
            UNIT * full if groups else 0,
            width,
            padded,
            offset,
            code_bytes,
            code_bytes + blocks * PANEL * block_bytes,
        )
        groups.append(Group(unit, count, blocks, full * (UNIT // block) if groups and block else 0))
    return tuple(groups)


def _pad(codes: torch.Tensor, inputs: int, rows: int) -> torch.Tensor:
    if codes.shape == (inputs, rows):
        return codes.contiguous()
    padded = torch.zeros((inputs, rows), dtype=codes.dtype)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    return padded


def _bytes_by_panel(values: torch.Tensor, panels: int) -> torch.Tensor:
    """`[blocks, rows]` of any dtype → uint8 `[panels, blocks * 16 * itemsize]`, block by block."""
    padded = _pad(values, values.shape[0], panels * PANEL)
    return (
        padded.view(values.shape[0], panels, PANEL)
        .transpose(0, 1)
        .contiguous()
        .view(torch.uint8)
        .view(panels, -1)
    )


def _by_panel(values: torch.Tensor, panels: int) -> torch.Tensor:
    """`[blocks, panels * 16]` → `[panels, 16, blocks, 1]`."""
    return values.view(len(values), panels, PANEL).permute(1, 2, 0)[..., None]


def _from_bytes(raw: torch.Tensor, kind: str) -> torch.Tensor:
    return raw if kind == "u8" else raw.contiguous().view(torch.float16)
