"""Compressed matrices as bytes, read after docs/format.md section 4 and nothing else, in NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PANEL, UNIT, GRAIN = 16, 128, 32
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
SCALE_BYTES = {"row": 0, "u8": 1, "f16": 2}
ZERO_BYTES = {"none": 0, "u8": 1, "f16": 2, "min": 2}
TABLES = {
    "gauss4": (-120, -36, 36, 120),
    "gauss8": (-114, -71, -40, -13, 13, 40, 71, 114),
    "gauss16": (-104, -79, -62, -48, -36, -25, -15, -5, 5, 15, 25, 36, 48, 62, 79, 104),
    "gauss32": (
        *(-124, -102, -88, -77, -68, -60, -53, -46, -40, -34, -28, -23, -18, -13, -8, -3),
        *(3, 8, 13, 18, 23, 28, 34, 40, 46, 53, 60, 68, 77, 88, 102, 124),
    ),
    "nf4": (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127),
    "iq4": (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113),
}


@dataclass(frozen=True)
class Panels:
    """A compressed matrix: parameters and bytes. `data` uint8 `[panels, bytes]`, `rows` likewise or None."""

    outputs: int
    inputs: int
    bits: int
    block: int
    scale: str
    zero: str
    centre: int
    exponent: int
    data: np.ndarray
    rows: np.ndarray | None
    table: tuple[int, ...] = ()
    width: int = 0
    segment: int = 0
    multiplier: np.ndarray | None = None
    cache: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def panels(self) -> int:
        return -(-self.outputs // PANEL)


@dataclass(frozen=True)
class Unit:
    begin: int
    width: int
    padded: int
    offset: int
    blocks: tuple[tuple[int, int], ...]
    """Begin and end of each scale block, within the unit."""


def units(inputs: int, bits: int, block: int, scale: str, zero: str) -> list[Unit]:
    found, offset = [], 0
    for begin in range(0, inputs, UNIT):
        width = min(UNIT, inputs - begin)
        padded = -(-width // GRAIN) * GRAIN
        step = block or UNIT
        blocks = tuple((at, min(at + step, width)) for at in range(0, width, step))
        found.append(Unit(begin, width, padded, offset, blocks))
        offset += padded * 2 * bits
        if block:
            offset += len(blocks) * PANEL * (SCALE_BYTES[scale] + ZERO_BYTES[zero])
    return found


def panel_bytes(inputs: int, bits: int, block: int, scale: str, zero: str) -> int:
    last = units(inputs, bits, block, scale, zero)[-1]
    tail = len(last.blocks) * PANEL * (SCALE_BYTES[scale] + ZERO_BYTES[zero]) if block else 0
    return last.offset + last.padded * 2 * bits + tail


def row_bytes(block: int, scale: str, zero: str) -> int:
    if block:
        return 32 if scale == "u8" else 0
    return 32 + PANEL * ZERO_BYTES[zero]


def codes(w: Panels) -> np.ndarray:
    """uint8 `[panels · 16, units · 128]`; what lies beyond the padding is 0."""
    if "codes" in w.cache:
        return w.cache["codes"]
    parts = units(w.inputs, w.bits, w.block, w.scale, w.zero)
    out = np.zeros((w.panels, PANEL, len(parts) * UNIT), np.uint8)
    for unit in parts:
        offset, low = unit.offset, w.bits
        for plane in PLANES[w.bits]:
            low -= plane
            per_line = 8 // plane
            size = unit.padded * 2 * plane
            lines = w.data[:, offset : offset + size].reshape(w.panels, -1, PANEL, 4)
            offset += size
            for quad in range(unit.padded // 4):
                line = lines[:, quad // per_line]
                part = (line >> (plane * (quad % per_line))) & ((1 << plane) - 1)
                at = unit.begin + 4 * quad
                out[:, :, at : at + 4] |= (part << low).astype(np.uint8)
    w.cache["codes"] = out.reshape(-1, out.shape[-1])
    return w.cache["codes"]


def _numbers(raw: np.ndarray, kind: str) -> np.ndarray:
    """The bytes `[panels, 16 · size]` of one block as float32 `[panels · 16]`."""
    raw = np.ascontiguousarray(raw)
    if kind == "u8":
        return raw.reshape(-1).astype(np.float32)
    return raw.view(np.float16).astype(np.float32).reshape(-1)


def block_numbers(w: Panels) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Scales and zero points of each unit's blocks; empty lists where they belong to whole rows."""
    scales: list[list[np.ndarray]] = []
    zeros: list[list[np.ndarray]] = []
    for unit in units(w.inputs, w.bits, w.block, w.scale, w.zero):
        scales.append([])
        zeros.append([])
        at = unit.offset + unit.padded * 2 * w.bits
        for target, size, kind in (
            (scales[-1], SCALE_BYTES[w.scale], w.scale),
            (zeros[-1], ZERO_BYTES[w.zero], w.zero),
        ):
            for _ in unit.blocks if w.block and size else ():
                target.append(_numbers(w.data[:, at : at + PANEL * size], kind))
                at += PANEL * size
    return scales, zeros


def row_numbers(w: Panels) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales of the rows, and their zero points where they have some; 1 where there are none."""
    if w.rows is None:
        return np.ones(w.panels * PANEL, np.float32), None
    scale = _numbers(w.rows[:, :32], "f16")
    if w.block or w.zero == "none":
        return scale, None
    return scale, _numbers(w.rows[:, 32 : 32 + PANEL * ZERO_BYTES[w.zero]], w.zero)


def doubled(w: Panels) -> tuple[np.ndarray, int]:
    """2 u(c) for every code as int64 `[rows, units · 128]`, and the centre."""
    found = codes(w).astype(np.int64)
    if w.table:
        return 2 * (np.array(w.table, np.int64)[found & (len(w.table) - 1)] + 128), 256
    return 2 * found, w.centre


# Random ones ---------------------------------------------------------------------------------------

FORMATS: tuple[tuple[int | str, int, str, str], ...] = tuple(
    (code, block, scale, zero)
    for code in (2, 3, 4, 5, 6, 8, *TABLES)
    for block in (0, 32, 64, 128)
    for scale in (("u8", "f16") if block else ("row",))
    for zero in (("none", "u8", "f16", "min") if isinstance(code, int) else ("none",))
)
"""Everything that a payload can be: bits or table, block, scale, zero."""


def random_panels(
    rng: np.random.Generator,
    outputs: int,
    inputs: int,
    code: int | str = 4,
    block: int = 32,
    scale: str = "u8",
    zero: str = "none",
    *,
    width: int = 0,
    segment: int = 0,
    exponent: int = 0,
    centre: int | None = None,
    any_bytes: bool = False,
) -> Panels:
    """Random codes; scales and zero points random but ordinary, or with `any_bytes` whatever the bytes say.

    What pads rows and inputs is random too: no result may depend on it.
    """
    table = TABLES[code] if isinstance(code, str) else ()
    bits = (len(table) - 1).bit_length() if isinstance(code, str) else code
    panels = -(-outputs // PANEL)
    data = rng.integers(0, 256, (panels, panel_bytes(inputs, bits, block, scale, zero)), np.uint8)
    size = row_bytes(block, scale, zero)
    rows = rng.integers(0, 256, (panels, size), np.uint8) if size else None
    if centre is None:
        centre = 0 if table or zero != "none" else (1 << bits) - 1
    w = Panels(
        outputs, inputs, bits, block, scale, zero, centre, exponent, data, rows, table, width, segment,
        np.where(rng.integers(0, 2, inputs) > 0, np.float32(1), np.float32(-1)) if width else None,
    )  # fmt: skip
    if not any_bytes:
        _tame(w, rng)
    return w


def _tame(w: Panels, rng: np.random.Generator) -> None:
    """Finite scales of a plausible size in place of random float16 bits."""

    def fill(target: np.ndarray, kind: str, low: float, high: float) -> None:
        if kind != "u8":
            drawn = rng.uniform(low, high, target.size // 2).astype(np.float16)
            target[...] = drawn.view(np.uint8).reshape(target.shape)

    middle = 128.0 if w.table else 2.0 ** (w.bits - 1)
    zero = (-1.0, 1.0) if w.zero == "min" else (0.0, 2 * middle)
    for unit in units(w.inputs, w.bits, w.block, w.scale, w.zero) if w.block else ():
        at, count = unit.offset + unit.padded * 2 * w.bits, len(unit.blocks) * PANEL
        middle_at = at + count * SCALE_BYTES[w.scale]
        fill(w.data[:, at:middle_at], w.scale, -0.1, 0.1)
        if w.zero != "none":
            fill(w.data[:, middle_at : middle_at + count * ZERO_BYTES[w.zero]], w.zero, *zero)
    if w.rows is not None:
        fill(w.rows[:, :32], "f16", 0.001, 0.01)
        if w.rows.shape[1] > 32:
            fill(w.rows[:, 32:], w.zero, *zero)
