"""Decoding and lookup: the normative value, bit for bit, and the same whatever is asked for together."""

from __future__ import annotations

import mmap

import machine
import numpy as np
import pytest
import torch

import numerics
from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.transforms.hadamard import Hadamard
from numerics import same
from payloads import FORMATS, Panels, random_panels

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def _codec(w: Panels, code: int | str) -> PanelCodec:
    scale = "f16" if w.scale == "row" else w.scale
    if isinstance(code, str):
        return Codebook(code, w.block, scale, w.exponent)
    return Uniform(code, w.block, scale, w.zero, w.centre, w.exponent)


@pytest.mark.parametrize("part", range(5))
def test_every_format_decodes_to_its_normative_values(tier: str, part: int) -> None:
    rng = np.random.default_rng(part)
    for number, (code, block, scale, zero) in list(enumerate(FORMATS))[part::5]:
        outputs, inputs = ((1, 31), (17, 129), (33, 200), (16, 257), (40, 96))[number % 5]
        w = random_panels(
            rng, outputs, inputs, code, block, scale, zero, exponent=number % 9 - 4, any_bytes=number % 3 == 0
        )
        m = machine.matrix(w)
        expected = numerics.decode(w)
        arrays = {"_hgs": torch.from_numpy(w.data)}
        if w.rows is not None:
            arrays["_hgsr"] = torch.from_numpy(w.rows)
        codec = _codec(w, code)
        assert same(codec.decode(arrays, MatrixShape(outputs, inputs)).numpy(), expected), "the emulation"
        for dtype in ("f32", "f16", "bf16"):
            with machine.using(threads=1 + number % 3):
                got = machine.decode(m, 0, outputs, dtype, number % 3)
            assert same(got, numerics.store(expected, dtype)), (code, block, scale, zero, dtype)


def test_transforms_are_undone(tier: str) -> None:
    """Against the package's own decoder, signs included."""
    rng = np.random.default_rng(20)
    for width, inputs, begin, axes in (
        (2, 33, 0, "oi"), (16, 200, 7, "oi"), (32, 160, 0, "oi"), (64, 64, 0, "oi"), (128, 300, 0, "oi"),
        (256, 600, 0, "oi"), (512, 512, 3, "oi"), (1024, 2049, 0, "oi"), (32, 100, 0, "oik"),
    ):  # fmt: skip
        shape = (20, inputs, 3) if axes == "oik" else (20, inputs)
        columns = inputs * 3 if axes == "oik" else inputs
        segment = inputs if axes == "oik" else 0
        w = random_panels(rng, 20, columns, 5, 64, "u8", "f16", segment=segment)
        letters = "".join("QYcfghijmu"[place * place % 10] for place in range(inputs))
        transform = Hadamard(width, "space", begin, segment, letters if width != 64 else "")
        descriptor = Descriptor("F32", shape, axes, _codec(w, 5), transform)
        places = {"_hgs": (w.data.ctypes.data, w.data.nbytes)}
        arrays = {"_hgs": torch.from_numpy(w.data)}
        if w.rows is not None:
            places["_hgsr"] = (w.rows.ctypes.data, w.rows.nbytes)
            arrays["_hgsr"] = torch.from_numpy(w.rows)
        m = machine.native.matrix_of(descriptor, places)
        expected = descriptor.to_matrix(descriptor.decode(arrays)).numpy()
        assert same(machine.decode(m, 0, 20), expected), (width, inputs, begin)


def test_dense_rows(tier: str) -> None:
    rng = np.random.default_rng(21)
    for dtype in ("f32", "f16", "bf16"):
        for transposed in (False, True):
            plain = rng.standard_normal((37, 65)).astype(np.float32)
            stored = numerics.store(np.ascontiguousarray(plain.T if transposed else plain), dtype)
            values = numerics.load(stored, dtype)
            values = np.ascontiguousarray(values.T if transposed else values)
            m = machine.dense_matrix(stored, dtype, transposed)
            for out in ("f32", "f16", "bf16"):
                assert same(machine.decode(m, 0, 37, out, 1), numerics.store(values, out)), (dtype, out)
                assert same(machine.lookup(m, [36, 0, 36], out), numerics.store(values[[36, 0, 36]], out))


def test_ranges_and_lookups_are_parts_of_the_whole(tier: str) -> None:
    rng = np.random.default_rng(22)
    for code, block, scale, zero in (
        (4, 32, "u8", "none"),
        (6, 0, "row", "min"),
        ("gauss32", 64, "f16", "none"),
    ):
        w = random_panels(rng, 70, 200, code, block, scale, zero, width=64)
        m, expected = machine.matrix(w), numerics.decode(w)
        for first in (0, 1, 15, 16, 17, 40, 69):
            for count in (0, 1, 2, 16, 17, 30, 70 - first):
                if count <= 70 - first:
                    with machine.using(threads=1 + count % 3):
                        assert same(machine.decode(m, first, count), expected[first : first + count])
        for count in (0, 1, 7, 16, 40):
            ids = rng.integers(0, 70, count).tolist()
            assert same(machine.lookup(m, ids, extra=2), expected[ids])


def test_many_rows_over_several_threads(tier: str) -> None:
    rng = np.random.default_rng(23)
    w = random_panels(rng, 1003, 160, 4, 32, "u8", width=32)
    m = machine.matrix(w)
    with machine.using(threads=1):
        expected = machine.decode(m, 0, 1003)
    ids = rng.integers(0, 1003, 700).tolist()
    for threads in (2, 3, 7):
        with machine.using(threads=threads):
            assert same(machine.decode(m, 3, 1000), expected[3:])
            assert same(machine.lookup(m, ids), expected[ids])


def test_offsets_beyond_32_bits() -> None:
    """A payload of more than 4 GiB that takes no memory: zeros but for its last panels."""
    rng = np.random.default_rng(24)
    small = random_panels(rng, 16 * 3 - 5, 1 << 14, 8, 128, "u8", "u8", width=128)
    panel = small.data.shape[1]
    panels = (1 << 32) // panel + 4
    area = mmap.mmap(-1, panels * panel, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    data = np.frombuffer(area, np.uint8).reshape(panels, panel)
    data[-3:] = small.data
    rows = np.zeros((panels, 32), np.uint8)
    rows[-3:] = small.rows
    outputs = 16 * panels - 5
    w = Panels(**{**small.__dict__, "outputs": outputs, "data": data, "rows": rows, "cache": {}})
    m, first = machine.matrix(w), outputs - 43
    values = numerics.decode(small)
    assert same(machine.decode(m, first, 43), values)
    assert same(machine.lookup(m, [outputs - 1, first]), values[[42, 0]])
    assert not machine.lookup(m, [0]).any()
    x = rng.standard_normal((1, small.inputs)).astype(np.float32)
    for mode in (numerics.INT8, numerics.FLOAT):
        expected = numerics.multiply(small, numerics.prepare(small, x), mode)
        y = machine.linear(m, x, mode)
        assert same(y[:, first:], expected)
        assert not y[:, :first].any()
