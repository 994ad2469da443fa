"""Random-sign block Hadamard of the inputs: `T = H · D`, D signs, H Walsh-Hadamard over blocks.

It spreads what single weights and single activations carry over a block, so that both look Gaussian and
one grid fits everywhere (Ashkboos et al. 2024, QuaRot; Tseng et al. 2024, QuIP#). Stored is `W T⁻¹ = W D H`.
Where calibration has found channel scales S (`channels.py`) they are part of D: `W S D H` is stored, and
`H D S⁻¹` is what activations go through.

Everything here is additions, subtractions and one multiplication in float32, element by element in a
fixed order, so that every processor gives the same bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from blake3 import blake3

from higgsx.errors import FormatError
from higgsx.lazy import lazy
from higgsx.transforms import channels

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

MAX_WIDTH = 1024
DEFAULT_WIDTH = 128
_PIECE = 1 << 16
"""Weights mixed at a time."""


@dataclass(frozen=True)
class Hadamard:
    """width   inputs that one butterfly mixes, a power of two
    space   id of the input space: all tensors that read one activation share it, so they share the signs
    begin   absolute index of the first input, for a slice of a row
    segment inputs after which blocks start anew (channels of one kernel position), 0: the whole row
    scales  of each input of a segment, or of the row; empty: none
    """

    width: int
    space: str
    begin: int = 0
    segment: int = 0
    scales: str = ""

    def __post_init__(self) -> None:
        power = (
            type(self.width) is int and 2 <= self.width <= MAX_WIDTH and self.width & (self.width - 1) == 0
        )
        if not power or type(self.space) is not str or not self.space:
            raise FormatError(
                "invalid Hadamard transform", got=f"width {self.width!r}, space {self.space!r}", code="CODEC"
            )
        for value in (self.begin, self.segment):
            if type(value) is not int or not 0 <= value < 1 << 48:
                raise FormatError("invalid Hadamard transform", got=f"index {value!r}", code="CODEC")
        channels.check(self.scales)

    @classmethod
    def default(cls, space: str, inputs: int, segment: int = 0, scales: str = "") -> Hadamard | None:
        """The width of 128, 64 or 32 that leaves the fewest inputs untouched; None if rows are too short."""
        row = segment or inputs
        widths = [width for width in (DEFAULT_WIDTH, 64, 32) if width <= row]
        if not widths:
            return None
        return cls(min(widths, key=lambda width: (row % width, -width)), space, 0, segment, scales)

    def to_json(self) -> dict[str, int | str]:
        """Scales stand in it only where there are any."""
        data: dict[str, int | str] = {
            "kind": "hadamard",
            "width": self.width,
            "space": self.space,
            "begin": self.begin,
            "segment": self.segment,
        }
        return data | {"scales": self.scales} if self.scales else data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Hadamard:
        more = set(data) - {"scales"} if data.get("scales") else set(data)
        if more != {"kind", "width", "space", "begin", "segment"} or data["kind"] != "hadamard":
            raise FormatError(
                "unknown transform", got=repr(dict(data))[:200], expected="kind hadamard", code="CODEC"
            )
        return cls(**{key: value for key, value in data.items() if key != "kind"})  # type: ignore[arg-type]

    def misfit(self, inputs: int) -> str | None:
        """Why it cannot belong to rows of so many inputs; None if it can."""
        expected = self.segment or inputs
        if self.scales and len(self.scales) != expected:
            return f"{len(self.scales)} channel scales for {expected} inputs"
        return None

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """`W` → `W S D H`, in place. x float32 `[inputs, rows]`, contiguous."""
        mixers: dict[tuple[int, int], _Mixer] = {}
        factor = torch.from_numpy(self._signs(x.shape[0]) * self._scales(x.shape[0], channels.scales))
        factor = factor.to(x.device)[:, None]
        for begin, end in self._blocks(x.shape[0]):
            for block, rows in _pieces(x.device, self.width, end - begin, x.shape[1]):
                inputs = slice(begin + block.start, begin + block.stop)
                part = x[inputs, rows]
                mixer = _mixer(mixers, part, self.width)
                torch.mul(part, factor[inputs], out=mixer.x)
                torch.mul(mixer.mix(), _norm(self.width), out=part)
        for begin, end in self._left(x.shape[0]):
            x[begin:end] *= factor[begin:end]
        return x

    def largest(self, rows: torch.Tensor) -> float:
        """Largest magnitude of weights `[rows, inputs]` after their scales, before the butterflies."""
        most = rows.abs().amax(0).float()
        if self.scales:
            most = most * torch.from_numpy(self._scales(len(most), channels.scales)).to(most.device)
        return float(most.max())

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """`W S D H` → `W`, in place. x float32 `[.., inputs]`, contiguous."""
        mixers: dict[tuple[int, int], _Mixer] = {}
        flat = x.view(-1, x.shape[-1])
        multiplier = torch.from_numpy(self.multiplier(x.shape[-1])).to(x.device)
        factor = (multiplier * _norm(self.width))[:, None]
        for begin, end in self._blocks(x.shape[-1]):
            for block, rows in _pieces(x.device, self.width, end - begin, len(flat)):
                inputs = slice(begin + block.start, begin + block.stop)
                part = flat[rows, inputs].t()
                mixer = _mixer(mixers, part, self.width)
                mixer.x.copy_(part)
                part.copy_(mixer.mix().mul_(factor[inputs]))
        for begin, end in self._left(x.shape[-1]):
            flat[:, begin:end] *= multiplier[begin:end]
        return x

    def multiplier(self, inputs: int) -> np.ndarray:
        """float32 `[inputs]`: the sign of every input, 1 where it is not transformed, over its scale."""
        return self._signs(inputs) * self._scales(inputs, channels.reciprocals)

    def _signs(self, inputs: int) -> np.ndarray:
        found = np.ones(inputs, dtype=np.float32)
        for begin, end in self._blocks(inputs):
            found[begin:end] = signs(self.space, self.begin + begin, end - begin)
        return found

    def _scales(self, inputs: int, meaning: Callable[[str], np.ndarray]) -> np.ndarray:
        """float32 `[inputs]`, the same in each segment."""
        if not self.scales:
            return np.ones(inputs, dtype=np.float32)
        return np.resize(meaning(self.scales), inputs)

    def _blocks(self, inputs: int) -> list[tuple[int, int]]:
        """Begin and end of what is transformed."""
        row = self.segment or inputs
        full = row // self.width * self.width
        return [(begin, begin + full) for begin in range(0, inputs, row) if full and begin + full <= inputs]

    def _left(self, inputs: int) -> list[tuple[int, int]]:
        """Begin and end of what is only scaled: the remainders of segments."""
        if not self.scales:
            return []
        edges = [0, *(edge for block in self._blocks(inputs) for edge in block), inputs]
        return [(begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end]


def _pieces(device: torch.device, width: int, inputs: int, rows: int) -> Iterator[tuple[slice, slice]]:
    """Whole blocks and some rows, few enough to stay in a processor's cache."""
    wide = max(1, min(rows, _PIECE // width)) if device.type == "cpu" else rows
    tall = max(1, _PIECE // (width * wide)) * width if device.type == "cpu" else inputs
    for first in range(0, rows, wide):
        for begin in range(0, inputs, tall):
            yield slice(begin, min(begin + tall, inputs)), slice(first, min(first + wide, rows))


class _Mixer:
    """Walsh-Hadamard, not normalised, over blocks of `width` along dim 0 of `[inputs, rows]`.

    Stage after stage goes from one buffer to the other: fill `x`, then call `mix`. The views of all stages
    are made once, for many pieces of one size.
    """

    def __init__(self, inputs: int, rows: int, width: int, device: torch.device) -> None:
        buffers = torch.empty((2, inputs, rows), dtype=torch.float32, device=device)
        self.x = buffers[0]
        self._stages = []
        source, target = buffers[0], buffers[1]
        stride = 1
        while stride < width:
            pairs, mixed = (buffer.view(-1, 2, stride, rows) for buffer in (source, target))
            self._stages.append((pairs[:, 0], pairs[:, 1], mixed[:, 0], mixed[:, 1]))
            source, target = target, source
            stride *= 2
        self._mixed = source

    def mix(self) -> torch.Tensor:
        for low, high, total, difference in self._stages:
            torch.add(low, high, out=total)
            torch.sub(low, high, out=difference)
        return self._mixed


def _mixer(known: dict[tuple[int, int], _Mixer], part: torch.Tensor, width: int) -> _Mixer:
    inputs, rows = part.shape
    if (inputs, rows) not in known:
        known[inputs, rows] = _Mixer(inputs, rows, width, part.device)
    return known[inputs, rows]


def _norm(width: int) -> float:
    """1/√width rounded to float32."""
    return float(np.float32(width**-0.5))


@lru_cache(maxsize=512)
def signs(space: str, begin: int, count: int) -> np.ndarray:
    """float32 ±1 for absolute inputs begin … begin + count − 1 of an input space.

    Sign i is the top bit of the SplitMix64 output (Steele et al. 2014) at `seed + (i + 1) · golden`, seed the
    first 8 bytes of BLAKE3 of the id, little-endian; a set bit is −1.
    """
    (seed,) = struct.unpack("<Q", blake3(space.encode()).digest(length=8))
    z = np.arange(begin + 1, begin + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(
        seed
    )
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.where(z >> np.uint64(63), np.float32(-1), np.float32(1))
