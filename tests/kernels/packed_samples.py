"""Valid payloads of random codes and scales: kernels are judged on any bytes."""

from __future__ import annotations

import math

import torch

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.kernels.packed import Packed
from higgsx.transforms.hadamard import Hadamard

CODECS: tuple[PanelCodec, ...] = (
    Uniform.symmetric(4, 32),
    Uniform.symmetric(8, 0),
    Uniform(4, 32, "f16", "min", 0, 0),
    Uniform(5, 128, "u8", "u8", 0, -2),
    Codebook.plain("gauss16", 64),
    Codebook.plain("gauss8", 0),
)

SHAPES: dict[str, tuple[int, ...]] = {
    "oi": (37, 200),
    "io": (200, 37),
    "eoi": (3, 20, 72),
    "eio": (3, 72, 20),
    "oik": (10, 40, 3),
    "oikk": (10, 40, 3, 3),
}


def packed(
    codec: PanelCodec, axes: str = "oi", dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = ()
) -> Packed:
    shape = shape or SHAPES[axes]
    plain = Descriptor("F32", shape, axes, codec)
    channels = plain.segment or plain.matrix.inputs
    scales = "".join("cdefghijk"[place * place % 9] for place in range(channels)) if channels % 2 == 0 else ""
    transform = Hadamard.default("space", plain.matrix.inputs, plain.segment, scales)
    descriptor = Descriptor("F32", shape, axes, codec, transform)
    generator = torch.Generator().manual_seed(5)
    parts = [
        _slab(codec, plain.matrix.outputs, plain.matrix.inputs, generator)
        for _ in range(plain.matrix.experts or 1)
    ]
    arrays = {}
    for position, suffix in enumerate(("_hgs", "_hgsr")):
        if suffix in descriptor.arrays():
            arrays[suffix] = torch.stack([part[position] for part in parts]).view(
                descriptor.arrays()[suffix][1]
            )
    return Packed(descriptor, arrays, dtype)


def _slab(
    codec: PanelCodec, rows: int, inputs: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    codes = torch.randint(0, len(codec.levels()), (inputs, rows), dtype=torch.uint8, generator=generator)
    blocks = math.ceil(inputs / codec.block) if codec.block else 1
    top = float(codec.levels().abs().max())
    fine = torch.rand((blocks, rows), generator=generator) / top
    coarse = (torch.rand(rows, generator=generator) / top / 255).half()
    bytes_ = torch.randint(1, 256, (blocks, rows), dtype=torch.uint8, generator=generator)
    zeros = {"none": None, "u8": bytes_.clone() % 20, "f16": fine.half(), "min": -fine.half()}[codec.zero]
    if codec.block == 0:
        return codec.pack(codes, Scales(None, fine[0].half(), zeros))
    if codec.scale == "f16":
        return codec.pack(codes, Scales(fine.half(), None, zeros))
    return codec.pack(codes, Scales(bytes_, coarse, zeros))
