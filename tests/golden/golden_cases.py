"""The golden files: what writes each of them, by name. A case never changes; new ones go to the end.

Where nothing else is said, codes and scales are arbitrary bytes (`golden_parts.packed`): what is fixed is
what bytes mean, not how codes are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from golden_models import MODELS, first
from golden_parts import (
    Tensors,
    arrays_of,
    bell,
    codes_of,
    halves,
    packed,
    scales_of,
    stored,
    stream,
    write,
)
from golden_whole import CONTAINER_CASES

from higgsx.codecs.base import DTYPE_BYTES
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.descriptor import Descriptor
from higgsx.pipeline.encode import encode_tensor
from higgsx.transforms.channels import ALPHABET
from higgsx.transforms.hadamard import Hadamard

ZEROS = ("none", "u8", "f16", "min")
FORMS = ((0, "f16"), *((block, scale) for block in (32, 64, 128) for scale in ("u8", "f16")))
"""Every scale block with every kind of scale."""
RAGGED = (18, 168)
"""Two panels, the last of 2 rows; two units, the last of 40 inputs padded to 64; blocks of 32 end with 8."""


def uniform(path: Path, bits: int) -> None:
    """Every block, scale and zero point; centres from 0 to the largest, exponents of either sign."""
    tensors: Tensors = {}
    centres = ((1 << bits) - 1, 1 << bits, 0, 2 << bits, 1)
    for index, (block, scale) in enumerate(FORMS):
        for zero in ZEROS:
            centre = centres[index % 5] if zero == "none" else 0
            exponent = (0, -9, 3, -1, 12)[(index + len(tensors)) % 5]
            codec = Uniform(bits, block, scale, zero, centre, exponent)
            descriptor = Descriptor("BF16", RAGGED, "oi", codec)
            tensors[f"b{block}.{scale}.{zero}"] = descriptor, packed(descriptor, f"uniform {bits}")
    write(path, tensors)


def codebook(path: Path, table: str) -> None:
    tensors: Tensors = {}
    for index, (block, scale) in enumerate(FORMS):
        codec = Codebook(table, block, scale, (-7, 0, 2)[index % 3])
        descriptor = Descriptor(("F32", "BF16", "F16")[index % 3], RAGGED, "oi", codec)
        tensors[f"b{block}.{scale}"] = descriptor, packed(descriptor, f"codebook {table}")
    write(path, tensors)


def shapes(path: Path) -> None:
    """One weight, whole panels and units, and the edges beside them."""
    codecs: tuple[PanelCodec, ...] = (
        Uniform.symmetric(4, 64),
        Codebook.plain("gauss32", 32),
        Uniform(3, 0, "f16", "min", 0, 0),
        Uniform(6, 128, "f16", "u8", 0, 0),
    )
    sizes = ((1, 1), (16, 128), (16, 32), (15, 31), (17, 33), (2, 129), (1, 255), (33, 32), (2, 288), (1, 96))
    tensors: Tensors = {}
    for index, (outputs, inputs) in enumerate(sizes):
        for codec in codecs if outputs * inputs < 500 else codecs[index % 2 :: 2]:
            descriptor = Descriptor("F16", (outputs, inputs), "oi", codec)
            tensors[f"{outputs}x{inputs}.{codec.id}{codec.code_bits}"] = descriptor, packed(descriptor, "s")
    write(path, tensors)


def extremes(path: Path) -> None:
    """The largest, smallest and most awkward scales, zero points and exponents that are allowed."""
    words = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF], "<u2")
    awkward = torch.from_numpy(np.resize(words, 16).view("<i2")).view(torch.float16)
    octets = torch.tensor([0, 1, 127, 128, 254, 255, 3, 64] * 2, dtype=torch.uint8)
    tensors: Tensors = {}
    for exponent in (-64, -24, 0, 64):
        for name, codec in {
            "u8": Uniform(8, 32, "u8", "none", 255, exponent),
            "zero": Uniform(4, 32, "f16", "f16", 0, exponent),
            "min": Uniform(2, 64, "u8", "min", 0, exponent),
            "row": Codebook("gauss16", 0, "f16", exponent),
        }.items():
            codes = codes_of(codec, 72, 16, f"extremes {name}")
            codes[:4], codes[4:8] = 0, (1 << codec.code_bits) - 1
            rolled = torch.stack([awkward.roll(shift) for shift in range(len(list(codec.blocks(72))))])
            block = octets.expand(len(rolled), 16) if codec.scale == "u8" else rolled
            scales = Scales(
                block if codec.block else None,
                awkward.roll(5) if codec.scale == "u8" or not codec.block else None,
                rolled.roll(3, 1) if codec.zero != "none" else None,
            )
            descriptor = Descriptor("F32", (16, 72), "oi", codec)
            tensors[f"{name}.{exponent}"] = descriptor, arrays_of(codec, codes, scales)
    write(path, tensors)


def hadamard_widths(path: Path) -> None:
    """Every width; the last 5 inputs stay as they are."""
    tensors: Tensors = {}
    for power in range(1, 11):
        width = 1 << power
        codec = Codebook.plain("gauss4", 32) if power % 2 else Uniform(2, 128, "f16", "f16", 0, -3)
        inputs = (2 * width if width < 512 else width) + 5
        descriptor = Descriptor("BF16", (2, inputs), "oi", codec, Hadamard(width, "x"))
        tensors[f"w{width}"] = descriptor, packed(descriptor, "widths")
    write(path, tensors)


def hadamard_places(path: Path) -> None:
    """Slices that begin inside, segments, rows too short for a block, ids of every kind."""
    transforms = {
        "begin.77": Hadamard(16, "a.weight", 77),
        "begin.128": Hadamard(32, "a.weight", 128),
        "begin.2p40": Hadamard(2, "a.weight", 1 << 40),
        "begin.largest": Hadamard(64, "a.weight", (1 << 48) - 1),
        "segment.30": Hadamard(16, "a.weight", 0, 30),
        "segment.34": Hadamard(32, "a.weight", 5, 34),
        "segment.short": Hadamard(64, "a.weight", 0, 64),
        "segment.long": Hadamard(32, "a.weight", 0, 1 << 40),
        "too.short": Hadamard(128, "a.weight"),
        "umlaut": Hadamard(32, "a.b.\u00e4"),
        "beyond": Hadamard(32, '\U0001f9ca "quoted" \\ \n\x01'),
        "long.id": Hadamard(32, "space." * 100),
    }
    tensors: Tensors = {}
    for name, transform in transforms.items():
        descriptor = Descriptor("BF16", (3, 100), "oi", Uniform.symmetric(4, 64, -3), transform)
        tensors[name] = descriptor, packed(descriptor, "places")
    write(path, tensors)


def channel_scales(path: Path) -> None:
    """Every letter; inputs that are left over, rows too short for a block, segments, `io` and `eoi`."""
    letters = ALPHABET[::-1] + ALPHABET
    cases = {
        "letters": ((3, 128), "oi", Hadamard(128, "x", 0, 0, letters)),
        "left.over": ((17, 100), "oi", Hadamard(64, "x", 0, 0, letters[:100])),
        "too.short": ((2, 33), "oi", Hadamard(64, "x", 0, 0, letters[:33])),
        "begin": ((2, 96), "oi", Hadamard(32, "x", 96, 0, letters[:96])),
        "segment": ((2, 40, 3), "oik", Hadamard(32, "x", 0, 40, letters[:40])),
        "long.segment": ((2, 64), "oi", Hadamard(32, "x", 0, 70, letters[:70])),
        "io": ((64, 5), "io", Hadamard(64, "x", 0, 0, letters[64:])),
        "eoi": ((2, 17, 64), "eoi", Hadamard(32, "x", 0, 0, letters[:64])),
    }
    tensors: Tensors = {}
    for index, (name, (shape, layout, transform)) in enumerate(cases.items()):
        codec = Codebook.plain("gauss16", 32) if index % 2 else Uniform.symmetric(6, 0, 4)
        descriptor = Descriptor("BF16", shape, layout, codec, transform)
        tensors[name] = descriptor, packed(descriptor, "scales")
    write(path, tensors)


def axes(path: Path) -> None:
    """Transposed as in GPT-2, stacked experts in both orders, convolutions over one and two dimensions."""
    cases: tuple[tuple[str, tuple[int, ...], Hadamard | None], ...] = (
        ("io", (132, 6), None),
        ("io", (40, 20), Hadamard(32, "c_attn")),
        ("eoi", (3, 17, 40), Hadamard(32, "experts")),
        ("eio", (2, 130, 3), Hadamard(128, "experts")),
        ("eio", (2, 33, 17), None),
        ("eoi", (1, 2, 33), None),
        ("oik", (3, 40, 3), Hadamard(32, "conv", 0, 40)),
        ("oik", (17, 3, 5), None),
        ("oikk", (2, 33, 2, 3), Hadamard(32, "conv", 0, 33)),
        ("oikk", (18, 4, 2, 3), None),
    )
    codecs = (Uniform(4, 32, "u8", "u8", 0, -3), Codebook("gauss8", 0, "f16", -3))
    tensors: Tensors = {}
    for index, (kind, shape, transform) in enumerate(cases):
        for codec in codecs:
            descriptor = Descriptor("F32", shape, kind, codec, transform)
            tensors[f"{kind}.{index}.{codec.id}"] = descriptor, packed(descriptor, f"axes {index}")
    write(path, tensors)


def dense(path: Path) -> None:
    """Every dtype, exact; special values; ranks from 0 to 8; and floats kept in another float."""
    tensors: Tensors = {}
    for dtype, size in DTYPE_BYTES.items():
        words = stream(f"dense {dtype}", 15 * size).view(f"<u{size}").copy()
        if dtype == "BOOL":
            words &= 1
        special = {
            "F64": [0x7FF0 << 48, 0xFFF0 << 48, 1 << 63, 1, 0x7FF8 << 48],
            "F32": [0x7F80 << 16, 0xFF80 << 16, 1 << 31, 1, 0x7FC0 << 16],
            "F16": [0x7C00, 0xFC00, 0x8000, 1, 0x3FF],
            "BF16": [0x7F80, 0xFF80, 0x8000, 1, 0x7F],
        }.get(dtype, [])
        if special:
            # the rest with a small exponent: no NaN of which a conversion may change the bits
            words &= ~words.dtype.type(1 << 8 * size - 2)
            words[: len(special)] = special
        tensors[dtype] = Descriptor(dtype, (3, 5), "", Dense(dtype)), {"": stored(dtype, words)}
    ranks: list[tuple[int, ...]] = [(), (1,), (7,), (2, 1, 3), (2, 1, 2, 1, 2), (1, 2, 1, 2, 1, 2, 1, 2)]
    for shape in ranks:
        words = stream(f"rank {len(shape)}", 4 * int(np.prod(shape))).view("<u4") & 0x3FFFFFFF
        name = f"rank.{len(shape)}.{int(np.prod(shape))}"
        tensors[name] = Descriptor("F32", shape, "", Dense("F32")), {"": stored("F32", words)}
    layouts: dict[str, tuple[int, ...]] = {"oi": (3, 5), "io": (5, 3), "eoi": (2, 3, 5), "oik": (2, 3, 3)}
    for axis, shape in layouts.items():
        values = bell(f"dense {axis}", *shape)
        for original, kept in (("F32", "BF16"), ("F64", "F16"), ("BF16", "F32")):
            array = {"BF16": values.bfloat16(), "F16": values.half(), "F32": values.bfloat16().float()}[kept]
            tensors[f"{axis}.{original}.{kept}"] = Descriptor(original, shape, axis, Dense(kept)), {"": array}
    write(path, tensors)


def slices(path: Path) -> None:
    """A slice of panels and a slice of units are payloads: the same bytes, the transform begun later."""
    codec, space = Codebook.plain("gauss8", 64, -4), "whole.weight"
    whole = Descriptor("BF16", (24, 272), "oi", codec, Hadamard(64, space))
    arrays = packed(whole, "slices")
    unit = codec.panel_bytes(128)
    parts = {
        "rows": ((8, 272), Hadamard(64, space), slice(1, 2), slice(None)),
        "columns": ((24, 144), Hadamard(64, space, 128), slice(None), slice(unit, None)),
        "middle": ((24, 128), Hadamard(64, space, 128), slice(None), slice(unit, 2 * unit)),
        "corner": ((16, 128), Hadamard(64, space), slice(0, 1), slice(0, unit)),
    }
    tensors: Tensors = {"whole": (whole, arrays)}
    for name, (shape, transform, panels, columns) in parts.items():
        cut = {"_hgs": arrays["_hgs"][panels, columns], "_hgsr": arrays["_hgsr"][panels]}
        tensors[name] = Descriptor("BF16", shape, "oi", codec, transform), cut
    write(path, tensors)


def imports(path: Path) -> None:
    """What other formats hold, in their own numbers. `test_imports` computes their values again."""
    forms: dict[str, PanelCodec] = {
        "q4_0": Uniform(4, 32, "f16", "none", 16, 0),
        "q4_1": Uniform(4, 32, "f16", "min", 0, 0),
        "q5_0": Uniform(5, 32, "f16", "none", 32, 0),
        "q5_1": Uniform(5, 32, "f16", "min", 0, 0),
        "q8_0": Uniform(8, 32, "f16", "none", 256, 0),
        "iq4_nl": Codebook("iq4", 32, "f16", 0),
        "gptq.128": Uniform(4, 128, "f16", "u8", 0, 0),
        "gptq.8bit": Uniform(8, 128, "f16", "u8", 0, 0),
        "awq.64": Uniform(4, 64, "f16", "u8", 0, 0),
        "hqq.64": Uniform(4, 64, "f16", "f16", 0, 0),
    }
    tensors: Tensors = {}
    for name, codec in forms.items():
        inputs = 256 if name.startswith("gptq") else 192
        scales = scales_of(codec, inputs, 6, f"imports {name}")
        if codec.zero == "u8":
            scales = Scales(scales.block, scales.row, None if scales.zero is None else scales.zero & 15)
        codes = codes_of(codec, inputs, 6, f"imports {codec.code_bits}")
        tensors[name] = Descriptor("F16", (6, inputs), "oi", codec), arrays_of(codec, codes, scales)
    write(path, tensors)


def encoded(path: Path) -> None:
    """Chosen by the portable rounding from weights: what the planner offers, with its transform."""
    codecs: list[PanelCodec] = [
        *(
            Codebook.plain(table, block)
            for table, block in zip(TABLES, (32, 64, 128, 0, 64, 32), strict=True)
        ),
        *(
            Uniform.symmetric(bits, block)
            for bits, block in zip(BITS, (128, 64, 32, 0, 64, 128), strict=True)
        ),
        Uniform(4, 64, "f16", "min", 0, 0),
        Uniform(3, 128, "u8", "u8", 0, 0),
    ]
    tensors: Tensors = {}
    for index, codec in enumerate(codecs):
        weights = bell(f"encoded {index}", 4, 160) * 2.0 ** (0, -20, 30)[index % 3]
        descriptor = Descriptor("BF16", (4, 160), "oi", codec, Hadamard.default("in", 160))
        tensors[f"{codec.id}.{codec.label}"] = encode_tensor(weights.bfloat16(), descriptor)
    zeros = Descriptor("F32", (3, 40), "oi", Uniform.symmetric(4, 64))
    tensors["zeros"] = encode_tensor(torch.zeros(3, 40), zeros)
    one = torch.zeros(3, 40)
    one[1, 7] = halves("one", 1).float()[0]
    tensors["one"] = encode_tensor(one, Descriptor("F32", (3, 40), "oi", Codebook.plain("gauss16", 32)))
    write(path, tensors)


CASES: dict[str, Callable[[Path], None]] = {
    **{f"uniform-{bits}": partial(uniform, bits=bits) for bits in BITS},
    **{f"codebook-{table}": partial(codebook, table=table) for table in TABLES},
    "shapes": shapes,
    "extremes": extremes,
    "hadamard-widths": hadamard_widths,
    "hadamard-places": hadamard_places,
    "axes": axes,
    "dense": dense,
    "slices": slices,
    "imports": imports,
    "encoded": encoded,
    **CONTAINER_CASES,
    **{model: partial(first, model) for model in MODELS},
    "channel-scales": channel_scales,
}

RETIRED: dict[str, str] = {}
"""Cases that today's writer or rounding makes otherwise: name → title of the entry in docs/log.md
that says why. They are read, not made."""
