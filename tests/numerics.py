"""What csrc/higgsx.h defines, again and slowly, in NumPy alone: results are compared bit for bit.

Nothing here is shared with the package: payloads are read after docs/format.md, products after the header.
Every step of binary32 is one rounding; `fma` is exact, see there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from payloads import PANEL, UNIT, Panels, block_numbers, doubled, row_numbers, units

INT8, INT16, FLOAT = 1, 2, 4
F32 = np.float32
QUIET = {"invalid": "ignore", "over": "ignore", "under": "ignore", "divide": "ignore"}


# Rounding ------------------------------------------------------------------------------------------


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a · b + c of binary32 numbers with one rounding, to binary32.

    The product is exact in binary64. The sum is rounded there *to odd*: where it is not exact, the neighbour
    with an odd last bit is taken, so that rounding again, to 29 bits less, sees on which side of a tie the
    exact sum lies (Boldo and Melquiond 2008).
    """
    with np.errstate(all="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        c = np.broadcast_to(np.asarray(c, np.float64), np.broadcast_shapes(product.shape, np.shape(c)))
        total = np.atleast_1d(product + c)
        part = total - product
        error = (product - (total - part)) + (c - part)  # exact (Knuth's two-sum)
        bits = total.view(np.int64)
        inexact = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
        # towards the error: away from zero if it has the sum's sign
        step = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.where(inexact, bits + step, bits).view(np.float64)
        return odd.astype(F32).reshape(np.shape(product + c))


def halves(lanes: np.ndarray) -> np.ndarray:
    """Sum over the last axis, 16 long: lane l + lane l + 8, then 4, 2, 1."""
    with np.errstate(**QUIET):
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def to_bf16(x: np.ndarray) -> np.ndarray:
    """binary32 → the upper 16 bits as uint16, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, F32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(F32)


def store(x: np.ndarray, dtype: str) -> np.ndarray:
    """binary32 in `f32`, `f16` or `bf16` (as uint16)."""
    with np.errstate(**QUIET):
        return to_bf16(x) if dtype == "bf16" else x.astype({"f32": F32, "f16": np.float16}[dtype])


def load(x: np.ndarray, dtype: str) -> np.ndarray:
    return from_bf16(x) if dtype == "bf16" else x.astype(F32)


# Activations ---------------------------------------------------------------------------------------


def butterflies(x: np.ndarray, width: int, segment: int) -> np.ndarray:
    """H x of every row, a copy: blocks of `width` within segments, then 1/√width."""
    x = x.copy()
    inputs = x.shape[-1]
    row = segment or inputs
    full = row // width * width
    norm = F32(width**-0.5)
    with np.errstate(**QUIET):
        for begin in range(0, inputs, row):
            if not full or begin + full > inputs:
                continue
            part = x[:, begin : begin + full]
            stride = 1
            while stride < width:
                pairs = part.reshape(len(x), -1, 2, stride)
                low, high = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
                part = np.stack([low + high, low - high], 2).reshape(len(x), full)
                stride *= 2
            x[:, begin : begin + full] = part * norm
    return x


@dataclass(frozen=True)
class Prepared:
    """The sections of the header's `prepared`, all of them."""

    q1: np.ndarray
    scale: np.ndarray
    sum1: np.ndarray
    q2: np.ndarray
    sum2: np.ndarray
    x: np.ndarray
    sumx: np.ndarray


def prepare(w: Panels | None, x: np.ndarray) -> Prepared:
    """x: binary32 `[tokens, inputs]`; None instead of a matrix: no transform."""
    with np.errstate(**QUIET):
        if w is not None and w.multiplier is not None:
            x = x * w.multiplier
        if w is not None and w.width:
            x = butterflies(x, w.width, w.segment)
        tokens, inputs = x.shape
        count = -(-inputs // UNIT)
        t = np.zeros((tokens, count * UNIT), F32)
        t[:, :inputs] = x
        blocks = t.reshape(tokens, count, UNIT)
        m = np.abs(blocks).max(-1)  # NaN wins
        bad, nothing = ~np.isfinite(m), m < F32(2.0**-100)
        scale = np.where(bad, F32(np.nan), np.where(nothing, F32(0), m / F32(127)))
        inverse = F32(127) / m
        live = ~(bad | nothing)[:, :, None]
        y = np.where(live, blocks * inverse[:, :, None], F32(0)).astype(F32)
        q1 = np.rint(y)
        q2 = np.rint((y - q1) * F32(254))
        lanes = t.reshape(tokens, -1, 2, 16)
        sumx = halves(lanes[:, :, 0] + lanes[:, :, 1])
    q1, q2 = (part.astype(np.int8).reshape(tokens, -1) for part in (q1, q2))
    sums = [part.reshape(tokens, -1, 32).astype(np.int32).sum(-1, dtype=np.int32) for part in (q1, q2)]
    return Prepared(q1, scale.astype(F32), sums[0], q2, sums[1], t, sumx)


def sections(p: Prepared, modes: int) -> list[tuple[str, np.ndarray]]:
    """What `hgx_prepare` writes, in order."""
    found: list[str] = []
    if modes & (INT8 | INT16):
        found += ["q1", "scale", "sum1"]
    if modes & INT16:
        found += ["q2", "sum2"]
    if modes & FLOAT:
        found += ["x", "sumx"]
    return [(name, getattr(p, name)) for name in found]


# Products ------------------------------------------------------------------------------------------


def multiply(
    w: Panels,
    p: Prepared,
    mode: int,
    bias: np.ndarray | None = None,
    add: np.ndarray | None = None,
    dtype: str = "f32",
) -> np.ndarray:
    """`[tokens, outputs]` as `hgx_multiply` defines it; `add` is what stood in y, in its dtype."""
    u, centre = doubled(w)
    u = u[: w.outputs]
    scales, zeros = block_numbers(w)
    row_scale, row_zero = (None if part is None else part[: w.outputs] for part in row_numbers(w))
    tokens = len(p.q1)
    acc, low = np.zeros((2, tokens, w.outputs), F32)
    integers = p.q1.astype(np.int64)
    if mode == INT16:
        integers = 254 * integers + p.q2
    with np.errstate(**QUIET):
        for at, unit in enumerate(units(w.inputs, w.bits, w.block, w.scale, w.zero)):
            s1, m1 = np.zeros((2, tokens, w.outputs), F32)
            for number, (begin, end) in enumerate(unit.blocks):
                columns = slice(unit.begin + begin, unit.begin + end)
                if mode == FLOAT:
                    n, a2 = _float_block(u[:, columns] - centre, p, columns)
                else:
                    total = integers[:, columns].sum(-1)[:, None]
                    n = (integers[:, columns] @ u[:, columns].T - centre * total).astype(F32)
                    a2 = (2 * total).astype(F32)
                z = zeros[at][number][: w.outputs] if w.block and w.zero != "none" else row_zero
                if w.zero in ("u8", "f16"):
                    n = fma(-z, a2, n)
                if w.block:
                    s1 = fma(n, scales[at][number][: w.outputs], s1)
                    if w.zero == "min":
                        m1 = fma(z, a2, m1)
                else:
                    s1, m1 = n, np.broadcast_to(a2, n.shape)
            if mode == FLOAT:
                acc, low = acc + s1, low + m1
            else:
                a = p.scale[:, at : at + 1]
                a = a / F32(254) if mode == INT16 else a
                acc, low = fma(s1, a, acc), fma(m1, a, low)
        e = F32(2.0 ** (w.exponent - 1))
        r = e if w.block and w.scale == "f16" else row_scale * e
        y = acc * r
        if w.zero == "min":
            y = fma(low if w.block else low * row_zero, F32(0.5), y)
        return finish(y, bias, add, dtype)


def _float_block(levels: np.ndarray, p: Prepared, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    parts = np.zeros((4, len(p.x), len(levels)), F32)
    x = p.x[:, columns]
    for k in range(x.shape[1]):
        parts[k % 4] = fma(levels[:, k].astype(F32), x[:, k : k + 1], parts[k % 4])
    sums = p.sumx[:, columns.start // 32 : -(-columns.stop // 32)]
    total = sums[:, 0]
    for at in range(1, sums.shape[1]):
        total = total + sums[:, at]
    return (parts[0] + parts[1]) + (parts[2] + parts[3]), F32(2) * total[:, None]


def finish(y: np.ndarray, bias: np.ndarray | None, add: np.ndarray | None, dtype: str) -> np.ndarray:
    with np.errstate(**QUIET):
        if bias is not None:
            y = y + bias
        if add is not None:
            y = load(add, dtype) + y
        return store(y, dtype)


def dense(
    weight: np.ndarray, x: np.ndarray, transposed: bool, bias: np.ndarray | None, dtype: str = "f32"
) -> np.ndarray:
    """weight: binary32 `[outputs, inputs]`, or `[inputs, outputs]` if transposed; x `[tokens, inputs]`."""
    w = weight.T if transposed else weight
    lanes = np.zeros((1 if transposed else 16, len(x), len(w)), F32)
    for k in range(x.shape[1]):
        lane = k % len(lanes)
        lanes[lane] = fma(w[:, k], x[:, k : k + 1], lanes[lane])
    return finish(lanes[0] if transposed else halves(np.moveaxis(lanes, 0, -1)), bias, None, dtype)


# Values --------------------------------------------------------------------------------------------


def decode(w: Panels) -> np.ndarray:
    """binary32 `[outputs, inputs]`, docs/format.md 4.5 and 4.6."""
    u, centre = doubled(w)
    v = ((u - centre) * 0.5).astype(F32)
    row_scale, row_zero = row_numbers(w)
    scales, zeros = block_numbers(w)
    factor = F32(2.0**w.exponent)
    out = np.zeros((w.panels * PANEL, w.inputs), F32)
    with np.errstate(**QUIET):
        for at, unit in enumerate(units(w.inputs, w.bits, w.block, w.scale, w.zero)):
            for number, (begin, end) in enumerate(unit.blocks):
                columns = slice(unit.begin + begin, unit.begin + end)
                s = row_scale * factor
                if w.block:
                    s = (
                        scales[at][number] * row_scale * factor
                        if w.scale == "u8"
                        else scales[at][number] * factor
                    )
                z = zeros[at][number] if w.block and w.zero != "none" else row_zero
                part = v[:, columns]
                if w.zero in ("u8", "f16"):
                    part = part - z[:, None]
                part = part * s[:, None]
                out[:, columns] = part + z[:, None] if w.zero == "min" else part
        if w.width:
            out = butterflies(out, w.width, w.segment)
        if w.multiplier is not None:
            out = out * w.multiplier
    return out[: w.outputs]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit; any NaN equals any other. uint16 is read as bf16."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == np.uint16:
        a, b = from_bf16(a), from_bf16(b)
    if a.dtype.kind != "f":
        return bool((a == b).all())
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    raw = [np.where(np.isnan(part), part.dtype.type(np.nan), part).view(kind) for part in (a, b)]
    return bool((raw[0] == raw[1]).all())
