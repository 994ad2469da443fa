"""Scales of input channels: which columns of weights an error should be kept away from.

The white error of a code spreads over the inputs of a weight as they are scaled. With scales s, the weights
W_ij s_j and the activations x_j / s_j, its second-order loss is proportional to

    L(s) = Σ_j c_j / s_j² · Σ_j q_j s_j²,   c_j = mean_t(|g_t|² x_tj²),  q_j = Σ_i r_i W_ij²,

which is least at s_j⁴ = c_j / q_j: by the Cauchy-Schwarz inequality never more than without scales. Weights
that read one activation share its scales; at a good plan each of them loses in proportion to its size, so
`Σ_k n_k log L_k(s)` is what is made small. (Scales from activations: Lin et al., "AWQ", MLSys 2024.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from higgsx.calibration.statistics import Statistics
from higgsx.transforms.channels import STEPS, scales, to_text

_ROUNDS = 12
_PRIOR = 32
"""Positions that are added to those that were seen, in which all channels were alike. What the material
hardly uses is loud in other texts: scales from 30 clips of speech (283 positions) alone made one layer lose
2.5 times as much on other clips as none; with these, 0.6 times."""
_FLOOR = 1e-4
"""Share of the mean that every channel of weights has at least."""

Weights = Mapping[str, tuple[Tensor, str]]
"""Parameter name → the weight and its axes."""


def channel_scales(
    spaces: Mapping[str, Sequence[str]], statistics: Statistics, weights: Weights
) -> dict[str, str]:
    """Input space → its scales as text (`transforms/channels.py`); spaces with a reader that nothing is known
    of, or whose readers were never used, have none.

    spaces  input space → names of all parameters that read it
    """
    found = {}
    for space, names in spaces.items():
        if not all(name in statistics.columns for name in names):
            continue
        readers = [
            (_whole(statistics.columns[name]), _whole(_column_powers(*weights[name], statistics.r[name])))
            for name in names
        ]
        sizes = [weights[name][0].numel() for name in names]
        if all(float(c.sum()) > 0 and float(q.sum()) > 0 for c, q in readers):
            found[space] = _shared(readers, sizes, _PRIOR / statistics.tokens)
    return found


def _shared(readers: Sequence[tuple[np.ndarray, np.ndarray]], sizes: Iterable[int], prior: float) -> str:
    share = np.array(list(sizes), dtype=np.float64)
    seen, held = zip(*readers, strict=True)
    c, q = _floored(np.stack(seen), prior), _floored(np.stack(held), _FLOOR)
    squared = np.ones(c.shape[1])
    for _ in range(_ROUNDS if len(c) > 1 else 1):
        up = share @ (c / (c / squared).sum(1, keepdims=True))
        down = share @ (q / (q * squared).sum(1, keepdims=True))
        squared = np.sqrt(up / down)
        squared /= np.exp(np.log(squared).mean())
    return to_text(np.rint(STEPS * np.log2(squared) / 2))


def _floored(x: np.ndarray, share: float) -> np.ndarray:
    """Rows with mean 1 before the share is added."""
    return np.asarray(x / x.mean(1, keepdims=True) + share)


def _whole(x: Tensor) -> np.ndarray:
    return np.asarray(x.double().numpy())


def _column_powers(weight: Tensor, axes: str, r: Tensor) -> Tensor:
    """float64 `[inputs]`: `Σ_i r_i W_ij²`, experts and all."""
    rows = _rows(weight, axes)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part, share in zip(rows.split(_AT_ONCE), r.split(_AT_ONCE), strict=True):
        total += share.float() @ part.float().square()
    return total


_AT_ONCE = 4096


def _rows(weight: Tensor, axes: str) -> Tensor:
    """`[experts · outputs, inputs]`, a view where that is possible."""
    rows = weight.detach().transpose(-1, -2) if axes.endswith("io") else weight.detach()
    return rows.reshape(-1, rows.shape[-1])


def scaled(statistics: Statistics, texts: Mapping[str, str], weights: Weights) -> Statistics:
    """The same for weights and activations after their scales.

    texts  parameter name → scales of its inputs
    """
    r, powers = dict(statistics.r), dict(statistics.powers)
    for name, text in texts.items():
        squared = torch.from_numpy(scales(text)).double().square()
        columns = statistics.columns[name]
        r[name] = r[name] * float((columns / squared).sum() / columns.sum())
        rows = _rows(*weights[name])
        powers[name] = torch.cat(
            [(part.float().square() @ squared.float()).double() for part in rows.split(_AT_ONCE)]
        )
    return replace(statistics, r=r, powers=powers, columns={})
