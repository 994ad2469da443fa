"""Codecs and matrices that the contract suite runs over."""

from __future__ import annotations

import dataclasses

import torch

from higgsx.codecs.base import Codec, MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import BLOCKS, PanelCodec, Scales
from higgsx.codecs.table import CODECS
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.rtn import rtn

ZEROS = ("u8", "f16", "min")
INSTANCES: dict[type[Codec], list[Codec]] = {
    Dense: [Dense("F32"), Dense("BF16"), Dense("F16")],
    Uniform: [
        *(Uniform.symmetric(bits, block) for bits in BITS for block in BLOCKS),
        Uniform(4, 32, "f16", "none", 16, 0),
        *(
            Uniform(bits, block, "f16", zero, 0, 3)
            for bits in (2, 5)
            for block in (0, 64)
            for zero in ("u8", "f16", "min")
        ),
        *(Uniform(4, 128, "u8", zero, 0, -4) for zero in ("u8", "f16", "min")),
    ],
    Codebook: [
        *(Codebook.plain(table, block) for table in TABLES for block in (32, 0)),
        Codebook("gauss16", 128, "f16", 0),
    ],
}
ALL = [codec for codec_type in CODECS for codec in INSTANCES[codec_type]]
PANELS = [codec for codec in ALL if isinstance(codec, PanelCodec)]
SHAPES = [
    MatrixShape(16, 128),
    MatrixShape(5, 40),
    MatrixShape(33, 200),
    MatrixShape(1, 1),
    MatrixShape(20, 257),
]
"""Whole panels and units, and every way of not filling them."""


def name(value: object) -> str:
    if isinstance(value, Codec):
        return f"{value.id}-{value.label}"
    return f"{value.outputs}x{value.inputs}" if isinstance(value, MatrixShape) else repr(value)


def random_codes(codec: PanelCodec, shape: MatrixShape, seed: int = 0) -> tuple[torch.Tensor, Scales]:
    """Codes `[inputs, rows]` and scales that use every bit they have."""
    draw = torch.Generator().manual_seed(seed)
    blocks = len(list(codec.blocks(shape.inputs)))
    codes = torch.randint(0, len(codec.levels()), (shape.inputs, shape.outputs), generator=draw).to(
        torch.uint8
    )

    def numbers(kind: str, *size: int) -> torch.Tensor:
        if kind == "u8":
            return torch.randint(0, 256, size, generator=draw).to(torch.uint8)
        return torch.randn(size, generator=draw).half()

    row = numbers("f16", shape.outputs) if codec.scale == "u8" or not codec.block else None
    block = numbers(codec.scale, blocks, shape.outputs) if codec.block else None
    zero = None if codec.zero == "none" else numbers(codec.zero, blocks, shape.outputs)
    return codes, Scales(block, row, zero)


def encode(codec: Codec, weights: torch.Tensor) -> tuple[Codec, dict[str, torch.Tensor]]:
    """The codec with its exponent, and the stored arrays of float32 `[rows, inputs]`."""
    if isinstance(codec, Dense):
        return codec, {"": weights.to(codec.torch_dtype)}
    if not isinstance(codec, PanelCodec):
        raise TypeError(codec.id)
    codec = dataclasses.replace(codec, exponent=exponent_for(codec, weights.abs().max()))  # type: ignore[type-var]
    payload, rows = codec.pack(*rtn(codec, weights.t().contiguous()))
    return codec, {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}
