"""Sounds that nobody need bring: tones and noise, in the shapes that speech has.

A voice is a tone with many overtones whose pitch glides, shaped by three broad resonances that move from one
syllable to the next; hissing and pauses stand between. Nothing is said, but a model that listens to speech is
taken through its layers with activations of much the same kind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_RESONANCES = ((250.0, 850.0), (850.0, 2400.0), (2300.0, 3200.0))
"""Where they may lie, in hertz: the range of vowels."""
_WIDTH = 120.0
_OVERTONES = 30


class _Draw:
    """Numbers from a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def noise(self, count: int) -> Tensor:
        return torch.randn(count, generator=self.generator)


def voice(seed: int, seconds: float, rate: int) -> Tensor:
    """Samples float32 [seconds · rate] from -1 to 1; the same for the same seed."""
    draw = _Draw(seed)
    pitch, total = draw.between(90, 230), int(seconds * rate)
    parts: list[Tensor] = []
    while sum(map(len, parts)) < total:
        if draw.between(0, 1) < 0.4:
            parts.append(0.15 * draw.noise(int(draw.between(0.03, 0.1) * rate)))
        parts.append(
            _vowel(draw, pitch * draw.between(0.8, 1.25), int(draw.between(0.08, 0.25) * rate), rate)
        )
        parts.append(torch.zeros(int(draw.between(0.01, 0.3) ** 2 * 4 * rate)))
    clean = torch.cat(parts)[:total]
    clean = clean / clean.abs().max().clamp_min(1e-6)
    hiss = draw.noise(total) * clean.pow(2).mean().sqrt() * 10 ** (-draw.between(8, 40) / 20)
    return (0.7 * clean + hiss).clamp(-1, 1)


def _vowel(draw: _Draw, pitch: float, count: int, rate: int) -> Tensor:
    """Overtones of a gliding pitch under three resonances, rising and falling in loudness."""
    time = torch.linspace(0, 1, count)
    glide = pitch * (1 + draw.between(-0.15, 0.15) * time)
    phase = 2 * math.pi * torch.cumsum(glide, 0) / rate
    number = torch.arange(1, _OVERTONES + 1)[:, None]
    place = number * glide  # hertz of every overtone at every moment
    loud = torch.zeros_like(place)
    for low, high in _RESONANCES:
        centre = draw.between(low, high) + (draw.between(low, high) - low) * 0.3 * time
        loud += 1 / (1 + ((place - centre) / _WIDTH) ** 2)
    tones = (torch.sin(number * phase) * loud * (place < rate / 2)).sum(0)
    return tones * torch.sin(math.pi * time).clamp_min(0).sqrt()
