"""What codecs in panels promise beyond the common contract: the layout, slices of it, and its checks."""

from __future__ import annotations

import math

import pytest
import torch
from samples import PANELS, SHAPES, encode, name, random_codes

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.bits import PLANES
from higgsx.codecs.panels import PanelCodec, Scales

codecs = pytest.mark.parametrize("codec", PANELS, ids=name)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=name)


def as_arrays(packed: tuple[torch.Tensor, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    payload, rows = packed
    return {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}


def by_hand(codec: PanelCodec, codes: torch.Tensor, scales: Scales) -> list[bytes]:
    """The payload of each panel, byte by byte, as the design describes it and as slowly as that is."""
    inputs, rows = codes.shape
    panels = []
    for first in range(0, rows, 16):
        panel = bytearray()
        for begin in range(0, inputs, 128):
            width = min(128, inputs - begin)
            padded = math.ceil(width / 32) * 32
            low = codec.code_bits
            for plane in PLANES[codec.code_bits]:
                low -= plane
                lines = bytearray(padded * 16 * plane // 8)
                for offset in range(width):
                    for row in range(first, min(first + 16, rows)):
                        part = int(codes[begin + offset, row]) >> low & (1 << plane) - 1
                        quad, number = divmod(offset, 4)
                        line, place = divmod(quad, 8 // plane)
                        lines[64 * line + 4 * (row - first) + number] |= part << place * plane
                panel += lines
            if codec.block:
                of_unit = range(begin // codec.block, math.ceil((begin + width) / codec.block))
                for values in (scales.block, scales.zero):
                    for block in of_unit if values is not None else ():
                        panel += sixteen(values[block], first)
        panels.append(bytes(panel))
    return panels


def sixteen(values: torch.Tensor, first: int) -> bytes:
    part = values[first : first + 16]
    padded = torch.zeros(16, dtype=values.dtype)
    padded[: len(part)] = part
    return padded.numpy().tobytes()


@codecs
@pytest.mark.parametrize("shape", [MatrixShape(16, 128), MatrixShape(18, 168), MatrixShape(3, 261)], ids=name)
def test_layout(codec: PanelCodec, shape: MatrixShape) -> None:
    codes, scales = random_codes(codec, shape)
    payload, rows = codec.pack(codes, scales)
    assert [panel.numpy().tobytes() for panel in payload] == by_hand(codec, codes, scales)
    if rows is None:
        assert codec.block and codec.scale == "f16"
        return
    for panel, stored in enumerate(rows):
        expected = sixteen(scales.row, 16 * panel)
        if not codec.block and scales.zero is not None:
            expected += sixteen(scales.zero[0], 16 * panel)
        assert stored.numpy().tobytes() == expected


@codecs
@shapes
def test_unpack_is_the_inverse_of_pack(codec: PanelCodec, shape: MatrixShape) -> None:
    codes, scales = random_codes(codec, shape)
    unpacked, read = codec.unpack(*codec.pack(codes, scales), shape.inputs)
    assert torch.equal(unpacked.flatten(0, 1)[: shape.outputs].t(), codes)
    for before, after in ((scales.block, read.block), (scales.row, read.row), (scales.zero, read.zero)):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert torch.equal(after[..., : shape.outputs], before)
            assert not after[..., shape.outputs :].any()


@codecs
def test_decoded_values_are_exact(codec: PanelCodec) -> None:
    """Level minus zero point, times scale, plus minimum, each step rounded to float32."""
    shape = MatrixShape(17, 300)
    codes, scales = random_codes(codec, shape, seed=5)
    decoded = codec.decode(as_arrays(codec.pack(codes, scales)), shape)
    levels = codec.levels()
    for row in (0, 9, 16):
        for block, (begin, width) in enumerate(codec.blocks(shape.inputs)):
            expected = levels[codes[begin : begin + width, row].long()]
            zero = None if scales.zero is None else scales.zero[block, row].float()
            multiplier = torch.tensor(2.0**codec.exponent)
            for part in (scales.block[block, row] if scales.block is not None else None, scales.row):
                if part is not None:
                    multiplier = multiplier * (part if part.dim() == 0 else part[row]).float()
            if zero is not None and codec.zero != "min":
                expected = expected - zero
            expected = expected * multiplier
            if zero is not None and codec.zero == "min":
                expected = expected + zero
            assert torch.equal(decoded[row, begin : begin + width], expected)


@codecs
def test_slices_are_payloads(codec: PanelCodec) -> None:
    shape = MatrixShape(48, 400)
    arrays = as_arrays(codec.pack(*random_codes(codec, shape)))
    whole = codec.decode(arrays, shape)
    panels = {suffix: array[1:] for suffix, array in arrays.items()}
    assert torch.equal(codec.decode(panels, MatrixShape(32, 400)), whole[16:])
    unit = codec.panel_bytes(128)
    middle = {**arrays, "_hgs": arrays["_hgs"][:, unit : 3 * unit]}
    assert torch.equal(codec.decode(middle, MatrixShape(48, 256)), whole[:, 128:384])
    end = {**arrays, "_hgs": arrays["_hgs"][:, 3 * unit :]}
    assert torch.equal(codec.decode(end, MatrixShape(48, 16)), whole[:, 384:])


@codecs
def test_any_bytes_decode(codec: PanelCodec) -> None:
    """Kernels and the reference may give wrong numbers for hostile bytes, never a bad read."""
    shape = MatrixShape(20, 168)
    draw = torch.Generator().manual_seed(3)
    arrays = {
        suffix: torch.randint(0, 256, array.shape, generator=draw).to(torch.uint8)
        for suffix, array in codec.arrays(shape).items()
    }
    assert codec.decode(arrays, shape).shape == (20, 168)


@codecs
def test_check_finds_scales_that_are_not_finite(codec: PanelCodec) -> None:
    shape = MatrixShape(20, 168)
    codes, scales = random_codes(codec, shape)
    assert codec.check(as_arrays(codec.pack(codes, scales)), shape) == []
    for values in (scales.block, scales.row, scales.zero):
        if values is None or values.dtype != torch.float16:
            continue
        for bad in (float("inf"), float("-inf"), float("nan")):
            before = values.flatten()[-1].item()
            values.view(-1)[-1] = bad
            complaints = codec.check(as_arrays(codec.pack(codes, scales)), shape)
            assert len(complaints) == 1 and "finite" in complaints[0]
            values.view(-1)[-1] = before


@codecs
def test_check_finds_every_bit_of_padding(codec: PanelCodec) -> None:
    """Flip each bit alone: those that change nothing that is decoded must be complained about."""
    shape = MatrixShape(5, 40)
    arrays = as_arrays(codec.pack(*random_codes(codec, shape)))
    used = as_arrays(codec.pack(*full(codec, shape)))
    assert codec.check(arrays, shape) == []
    found = 0
    for suffix, array in arrays.items():
        flat = array.view(-1)
        for place in range(0, flat.numel(), 7):
            for bit in (0, 3, 7):
                if int(used[suffix].view(-1)[place]) >> bit & 1:
                    continue
                flat[place] ^= 1 << bit
                assert codec.check(arrays, shape) != [], (suffix, place, bit)
                flat[place] ^= 1 << bit
                found += 1
    assert found > 50


def full(codec: PanelCodec, shape: MatrixShape) -> tuple[torch.Tensor, Scales]:
    """Codes and scales with every bit set, so that the packed bytes show which bits mean something."""
    codes, scales = random_codes(codec, shape)
    ones = [None if part is None else torch.full_like(part.view(torch.uint8), 255).view(part.dtype)
            for part in (scales.block, scales.row, scales.zero)]  # fmt: skip
    return torch.full_like(codes, (1 << codec.code_bits) - 1), Scales(*ones)


@pytest.mark.parametrize("codec", PANELS[::8], ids=name)
def test_threads_do_not_change_bytes(codec: PanelCodec) -> None:
    weights = torch.randn((70, 900), generator=torch.Generator().manual_seed(2))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            settled, arrays = encode(codec, weights)
            results.append((arrays, settled.decode(arrays, MatrixShape(70, 900))))
    finally:
        torch.set_num_threads(before)
    for arrays, decoded in results[1:]:
        assert all(torch.equal(arrays[suffix], results[0][0][suffix]) for suffix in arrays)
        assert torch.equal(decoded, results[0][1])
