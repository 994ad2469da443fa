"""What others do to the same model: torch's dynamic int8."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from damage.bench import Bench


def size(bench: Bench) -> tuple[int, float]:
    """Bytes of all matrices as `dynamic_int8` leaves them, and bits over their weights: a byte for a weight
    of an `nn.Linear` and 8 for each of its rows (scale and zero point); everything else, and what a look-up
    shares with a linear layer, in the original's dtype.
    """
    linear = {name for name, module in bench.model.named_modules() if type(module) is nn.Linear}
    parameters = dict(bench.model.named_parameters(remove_duplicate=False))
    nbytes = weights = 0
    for item in bench.items:
        if not item.counted:
            continue
        weights += item.weights
        own = parameters.get(bench.handle.names.get(item.name, ""))
        owners = {name.rpartition(".")[0] for name, one in parameters.items() if one is own}
        if owners & linear:
            nbytes += item.weights + 8 * item.plain.matrix.outputs
        if owners - linear or not owners:
            nbytes += item.info.nbytes
    return nbytes, nbytes * 8 / weights


def dynamic_int8(bench: Bench) -> tuple[int, float]:
    """Turn the bench's model, in place, into what `torch.ao.quantization.quantize_dynamic` makes of it: int8
    per output row in every `nn.Linear`, activations rounded as they come. The bench can do nothing else
    afterwards. Returns `size`.
    """
    bench.fill({})
    found = size(bench)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings: Any = torch.ao.quantization.per_channel_dynamic_qconfig
        torch.ao.quantization.quantize_dynamic(bench.model, {nn.Linear: settings}, inplace=True)
    return found
