"""Row sensitivities of every weight, from forward and backward passes over data, batch by batch.

The score is the log-likelihood of labels that are drawn from the model itself. Then the second moments of its
gradient are the Fisher information, which is the curvature of the KL divergence between the model and a copy
with slightly different weights: half a quadratic form in the error. (J. Martens, "New insights and
perspectives on the natural gradient method", JMLR 21, 2020: labels of the data would give something else.)
For outputs that are vectors y the score is `Σ √2 · u·y / |y|` with random signs u, whose gradient has the
second moments of twice the relative squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from higgsx.calibration.frozen import frozen
from higgsx.calibration.statistics import UNITS, Statistics
from higgsx.calibration.uses import Uses
from higgsx.errors import DataError, ModelError, TextError
from higgsx.tasks import NO_LABEL, Task

PIECE = 64
"""Positions whose logits are held at a time."""
SEED = 20_240_229

Progress = Callable[[int, int], None]
Towards = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def sensitivities(
    model: nn.Module,
    task: Task,
    batches: Iterable[Any],
    axes: Mapping[str, str],
    *,
    text: str = "",
    seed: int = SEED,
    total: int = 0,
    progress: Progress | None = None,
) -> Statistics:
    """See the top of this file. The model is put into evaluation mode and back, and is not changed.

    axes   parameter name → its axes, as the census found them; of tied names one. What a batch does not reach
           (an expert that no token chose) has rows of 0
    text   what the batches are, in words
    total  number of batches, for `progress(done, total)`
    TextError where no position counts, DataError where the model gives NaN or Inf.
    """
    generator = torch.Generator().manual_seed(seed)
    uses = Uses(model, axes)
    tokens = 0
    with frozen(model), torch.enable_grad():
        for done, batch in enumerate(batches, 1):
            uses.forget()
            tokens += _one_batch(model, task, batch, uses, generator)
            if progress is not None:
                progress(done, max(total, done))
    uses.forget()
    if tokens == 0:
        raise TextError("nothing to learn from", got="no position with a prediction", expected="one or more")
    for name, sums in uses.sums.items():
        if not bool(sums.isfinite().all()):
            raise DataError(
                "the gradient is not a finite number", where=name, remedy="use more precise numbers"
            )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    powers = {name: _row_powers(parameters[name].detach(), axes[name]) for name in uses.sums}
    r, columns = (
        {name: (sums / tokens).cpu() for name, sums in kept.items()} for kept in (uses.sums, uses.columns)
    )
    return Statistics(r, powers, tokens, UNITS[task.outputs], text, columns=columns)


def _one_batch(model: nn.Module, task: Task, batch: Any, uses: Uses, generator: torch.Generator) -> int:
    """Forward and backward, the head some positions at a time where the task can do that."""
    counts = task.labels(batch) != NO_LABEL
    towards = _towards_signs if task.outputs == "vectors" else _towards_labels
    stages: Any = getattr(task, "stages", None)
    with uses:
        parts = None if stages is None else stages(model, batch)
    if parts is None:
        with uses:
            outputs = task.call(model, batch)
        _back(outputs, counts, towards, generator)
    else:
        hidden, head = parts
        leaf = hidden.detach().requires_grad_()
        for rows, keep in zip(leaf.split(PIECE), counts.split(PIECE), strict=True):
            with uses:
                outputs = head(rows)
            _back(outputs, keep, towards, generator)
        torch.autograd.backward([hidden], [leaf.grad])
    return int(counts.sum())


def _back(outputs: Tensor, counts: Tensor, towards: Towards, generator: torch.Generator) -> None:
    if outputs.dim() != 2 or len(outputs) != len(counts):
        raise ModelError(
            "outputs do not belong to the labels", got=tuple(outputs.shape), expected=f"[{len(counts)}, …]"
        )
    found = [
        towards(rows, keep, generator)
        for rows, keep in zip(outputs.detach().split(PIECE), counts.split(PIECE), strict=True)
    ]
    torch.autograd.backward([outputs], [torch.cat(found)])


def _towards_labels(logits: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient of Σ log p(label) by the logits `[n, V]`, labels drawn from p; 0 where a position does not
    count."""
    p = logits.float().softmax(-1)
    summed = p.cumsum(-1)
    drawn = torch.rand(len(p), 1, generator=generator).to(p.device) * summed[:, -1:]
    labels = torch.searchsorted(summed, drawn, right=True).clamp_(max=p.shape[1] - 1)
    del summed
    gradient = p.neg_()
    gradient.scatter_add_(1, labels, torch.ones_like(drawn))
    return gradient.mul_(counts.to(p.device)[:, None]).to(logits.dtype)


def _towards_signs(vectors: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Gradient of Σ √2 u·y / |y| by the vectors y `[n, H]`, |y| held fixed."""
    signs = torch.randint(0, 2, vectors.shape, generator=generator).mul_(2).sub_(1).to(vectors)
    length = vectors.float().square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
    return (signs * (2**0.5 / length) * counts.to(vectors.device)[:, None]).to(vectors.dtype)


def _row_powers(weight: Tensor, axes: str) -> Tensor:
    """float64 `[rows]`: squared lengths, a few rows at a time so that no large copy is made."""
    keep = [axes.index(letter) for letter in "eo" if letter in axes]
    rest = [dim for dim in range(weight.dim()) if dim not in keep]
    rows = weight.permute(*keep, *rest)
    parts = [part.double().square().sum([*range(len(keep), weight.dim())]) for part in _slices(rows)]
    return torch.cat(parts).reshape(-1).cpu()


def _slices(rows: Tensor) -> Iterator[Tensor]:
    step = max(1, (1 << 22) * len(rows) // max(1, rows.numel()))
    return iter(rows.split(step))
