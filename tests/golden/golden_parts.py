"""What golden files are made of: numbers that are the same everywhere and for ever, packed and written.

No random number generator takes part. `stream` is BLAKE3 in its extendable form, a function of a text, which
the format needs anyway; everything else is arithmetic on its bytes that rounds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from higgsx.codecs.base import torch_dtype
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.descriptor import Descriptor
from higgsx.hgs import Draft, Writer

Arrays = dict[str, torch.Tensor]
Tensors = dict[str, tuple[Descriptor, Arrays]]


def stream(name: str, count: int) -> np.ndarray:
    """uint8 `[count]`: the first bytes of BLAKE3 of the name, as long as asked for."""
    return np.frombuffer(blake3(name.encode()).digest(length=count), np.uint8)


def halves(name: str, *shape: int) -> torch.Tensor:
    """float16 of either sign, magnitudes from 2^-7 to 2^8: sign and significand from the stream."""
    count = int(np.prod(shape))
    raw = stream(name, 2 * count).view("<u2")
    words = (raw & 0x83FF) | ((8 + (raw >> 10 & 15)) << 10)
    return torch.from_numpy(words.astype("<i2")).view(torch.float16).view(shape)


def octets(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(stream(name, int(np.prod(shape))).copy()).view(shape)


def bell(name: str, *shape: int) -> torch.Tensor:
    """float32 near a Gaussian of deviation 0.14: sums of four numbers of 16 bits, exact."""
    count = int(np.prod(shape))
    words = stream(name, 8 * count).view("<i2").reshape(4, count).astype(np.int64)
    return torch.from_numpy((words.sum(0) * 2.0**-18).astype(np.float32)).view(shape)


def codes_of(codec: PanelCodec, inputs: int, outputs: int, name: str) -> torch.Tensor:
    """uint8 `[inputs, outputs]`, every code of the codec among them."""
    return octets(name, inputs, outputs) & ((1 << codec.code_bits) - 1)


def scales_of(codec: PanelCodec, inputs: int, outputs: int, name: str) -> Scales:
    blocks = len(list(codec.blocks(inputs)))

    def numbers(kind: str, what: str) -> torch.Tensor:
        make = octets if kind == "u8" else halves
        return make(f"{name}/{what}/{kind}", blocks, outputs)

    row = halves(f"{name}/row", outputs) if codec.scale == "u8" or not codec.block else None
    block = numbers(codec.scale, "block") if codec.block else None
    return Scales(block, row, None if codec.zero == "none" else numbers(codec.zero, "zero"))


def packed(descriptor: Descriptor, name: str) -> Arrays:
    """Stored arrays of codes and scales that the name determines. Equal names give equal codes."""
    codec, matrix = descriptor.codec, descriptor.matrix
    if not isinstance(codec, PanelCodec):
        raise TypeError(codec.id)
    parts = []
    for expert in range(matrix.experts or 1):
        own = f"{name}/{expert}"
        codes = codes_of(codec, matrix.inputs, matrix.outputs, f"{own}/codes")
        parts.append(arrays_of(codec, codes, scales_of(codec, matrix.inputs, matrix.outputs, own)))
    if matrix.experts is None:
        return parts[0]
    return {suffix: torch.stack([part[suffix] for part in parts]) for suffix in parts[0]}


def arrays_of(codec: PanelCodec, codes: torch.Tensor, scales: Scales) -> Arrays:
    payload, rows = codec.pack(codes, scales)
    return {"_hgs": payload} if rows is None else {"_hgs": payload, "_hgsr": rows}


def write(
    path: Path,
    tensors: Tensors,
    *,
    ties: Sequence[Sequence[str]] = (),
    assets: Mapping[str, bytes] | None = None,
    plan: Mapping[str, object] | None = None,
    recipe: Mapping[str, object] | None = None,
    damage: Mapping[str, Any] | None = None,
    reserve: int = 0,
) -> None:
    """Tensors in the order given."""
    listed = [
        (name, descriptor.to_json(), [(name + suffix, *spec) for suffix, spec in descriptor.arrays().items()])
        for name, (descriptor, _) in tensors.items()
    ]
    draft = Draft(listed, ties, assets or {}, plan or {}, recipe or {})
    with Writer(path, draft, reserve=reserve) as writer:
        for name, (_, arrays) in tensors.items():
            for suffix, array in arrays.items():
                writer.append(name + suffix, array.contiguous().view(-1).view(torch.uint8).numpy())
        writer.finish(damage)


def stored(dtype: str, values: np.ndarray) -> torch.Tensor:
    """A dense array from its words: unsigned numbers as wide as the dtype."""
    return torch.from_numpy(values.view(f"<i{values.itemsize}").copy()).view(torch_dtype(dtype))
