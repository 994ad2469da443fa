"""Codes to bit planes and back, in the order that a byte dot product reads.

A *line* is 64 bytes: 16 outputs times a quad of 4 neighbouring inputs, byte `4 * output + input`.
A plane of width w (8, 4, 2 or 1 bits of every code) puts 8 / w neighbouring quads into one line, the
first in the lowest bits. 3 bits are planes of 2 and 1, 5 of 4 and 1, 6 of 4 and 2, high part first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


PANEL = 16
"""Outputs of a panel."""
QUAD = 4
"""Neighbouring inputs of a line."""

PLANES: dict[int, tuple[int, ...]] = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}


def pack_planes(codes: torch.Tensor, bits: int, units: int, target: torch.Tensor) -> None:
    """Codes of `units` equal units into their place.

    codes   uint8 `[inputs, rows]`, contiguous, rows a multiple of 16, inputs of each unit a multiple of 32
    target  int32 `[panels, units, inputs per unit * bits / 2]`, 4 bytes to a number, may be a view
    """
    inputs, rows = codes.shape
    begin, low = 0, bits
    for width in PLANES[bits]:
        low -= width
        quads = 8 // width
        part = codes if width == bits else (codes >> low if low else codes) & ((1 << width) - 1)
        together = part.view(-1, quads, QUAD, rows)
        lines = together[:, 0]
        for quad in range(1, quads):
            # a product, not a shift: it is faster and the bits do not overlap
            lines = lines | together[:, quad] * (1 << quad * width)
        words = lines[:, 0].to(torch.int32)
        for number in range(1, QUAD):
            words |= lines[:, number].to(torch.int32) << 8 * number
        size = inputs // units * width // 2
        of_unit = words.view(units, -1, rows // PANEL, PANEL).permute(2, 0, 1, 3)
        target[:, :, begin : begin + size].view(of_unit.shape).copy_(of_unit)
        begin += size


def unpack_planes(packed: torch.Tensor, bits: int, inputs: int) -> torch.Tensor:
    """The inverse, for units of `inputs`: uint8 `[panels, units, bytes]` → `[panels, 16, units * inputs]`."""
    panels, units, _ = packed.shape
    planes = []
    begin, low = 0, bits
    for width in PLANES[bits]:
        low -= width
        size = inputs * PANEL * width // 8
        plane = packed[:, :, begin : begin + size].reshape(-1, PANEL * QUAD)
        planes.append(_spread(plane, width) << low if low else _spread(plane, width))
        begin += size
    lines = planes[0] if len(planes) == 1 else planes[0] | planes[1]
    words = lines.contiguous().view(torch.int32).view(panels, units * inputs // QUAD, PANEL)
    return words.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _spread(plane: torch.Tensor, width: int) -> torch.Tensor:
    """Packed lines `[n, 64]` → one line for each quad, `[n * 8 / width, 64]`."""
    if width == 8:
        return plane
    mask = (1 << width) - 1
    quads = [(plane >> quad * width if quad else plane) & mask for quad in range(8 // width)]
    return torch.stack(quads, dim=1).view(-1, PANEL * QUAD)
