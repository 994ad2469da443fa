"""Inputs for models whose work nobody described: random numbers of the right shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from higgsx.errors import TextError
from higgsx.tasks import Batches, Example, Wanted
from higgsx.tasks.outputs import first_floats

_COUNTS = {"check": 8, "calibration": 32}


def output_batches(handle: Any, wanted: Wanted) -> Batches:
    """Variants of the smallest input that takes the model through its weights. Its shape, and the number of
    positions of its output, are found on a model without weights."""
    skeleton = handle.skeleton()
    inputs = handle.tiny(skeleton)
    output = first_floats(handle.call(skeleton))
    if output is None:
        raise TextError("the model returns no numbers to compare", where=type(skeleton).__name__)
    positions = output.numel() // output.shape[-1] if output.dim() > 1 else 1
    count = max(1, min(_COUNTS[wanted.part], wanted.most_tokens // positions))
    vocabulary = getattr(handle.config.get_text_config(), "vocab_size", None) or 2
    examples = [
        Example(
            _random(inputs, int(vocabulary), wanted.seed + number),
            torch.zeros(positions, dtype=torch.int64),
        )
        for number in range(count)
    ]
    return Batches({"random": examples}, "random inputs: nothing is known of what this model does")


def _random(inputs: dict[str, Any], vocabulary: int, seed: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)

    def one(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_floating_point():
            return torch.randn(value.shape, generator=draw)
        if name.endswith("mask"):
            return torch.ones(value.shape, dtype=value.dtype)
        return torch.randint(0, vocabulary, value.shape, generator=draw)

    return {name: one(name, value) for name, value in inputs.items()}
