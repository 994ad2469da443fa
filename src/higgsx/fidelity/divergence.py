"""Divergence of two streams of logits, p (the original) and q (the compressed model), position by position.

Only a few numbers per position are kept. The work is done on about a million logits at a time, so temporaries
stay at some megabytes whatever the vocabulary.

KL is summed as `Σ p·(d + e^-d − 1)` with `d = log p − log q`, which equals `Σ p·log(p/q)` because both sum to
one (J. Schulman, "Approximating KL Divergence", 2020, there for samples). Every term is ≥ 0 and an error in
the two normalisations enters squared, so KL far below float32's epsilon is still right, and equal logits give
exactly 0. Rows where some `d` is extreme or infinite are done in float64 by the plain definition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from higgsx.errors import ModelError, TextError
from higgsx.fidelity.figures import Figures, Tokens, figures

_LOGITS_AT_ONCE = {"cpu": 2**20}
_LOGITS_AT_ONCE_ELSEWHERE = 2**24
_EXTREME = 60.0  # e^60 is far inside float32, and a term with p < e^-60 and q/p < e^60 is nothing


@dataclass(frozen=True)
class Rows:
    """Results for n positions, on the device of the logits. NaN or Inf where the logits are broken."""

    kl: Tensor  # float32
    agrees: Tensor  # bool: both have their highest logit at the same output
    confidence: Tensor  # float32: the original's highest probability
    loss_original: Tensor  # float64, nats
    loss_compressed: Tensor  # float64, nats


def diverge(p: Tensor, q: Tensor, labels: Tensor) -> Rows:
    """p, q: logits [n, V] of any float dtype, labels: int64 [n]. Neither is changed."""
    p, q = p.float(), q.float()
    p_top, q_top = _first_highest(p), _first_highest(q)
    p_high = p.gather(1, p_top[:, None])
    p_exp = (p - p_high).exp_()
    p_sum = p_exp.sum(1)
    p_log = p_high[:, 0].double() + p_sum.double().log()
    q_high = q.gather(1, q_top[:, None])
    work = torch.sub(q, q_high)
    q_log = q_high[:, 0].double() + work.exp_().sum(1).double().log()

    # Close logits subtract without error, the common offset comes after.
    torch.sub(p, q, out=work)
    work.sub_((p_log - q_log).float()[:, None])
    ordinary = (work.amin(1) > -_EXTREME) & (work.amax(1) < torch.inf)
    terms = torch.neg(work).expm1_().add_(work).mul_(p_exp)
    kl = (terms.sum(1) / p_sum).float()
    rows = Rows(
        kl=kl,
        agrees=p_top == q_top,
        confidence=p_sum.reciprocal(),
        loss_original=p_log - p.gather(1, labels[:, None])[:, 0].double(),
        loss_compressed=q_log - q.gather(1, labels[:, None])[:, 0].double(),
    )
    for row in torch.nonzero(~ordinary)[:, 0].tolist():
        _plainly(rows, row, p[row].double(), q[row].double(), labels[row])
    return rows


def _plainly(rows: Rows, row: int, p: Tensor, q: Tensor, label: Tensor) -> None:
    """One row by the definition, in float64. A logit of -Inf is a probability of zero."""
    p_log, q_log = p.log_softmax(0), q.log_softmax(0)
    p_prob = p_log.exp()
    terms = torch.where(p_prob == 0, torch.zeros_like(p), p_prob * (p_log - q_log))
    rows.kl[row] = terms.sum().float()
    rows.confidence[row] = p_prob.max().float()
    rows.loss_original[row] = -p_log[label]
    rows.loss_compressed[row] = -q_log[label]


def _first_highest(x: Tensor) -> Tensor:
    """Index of the highest value in each row, the lowest index where several are equal."""
    if x.device.type == "cpu":  # NumPy's is vectorised, torch's takes longer than everything else here
        return torch.from_numpy(x.numpy().argmax(axis=1))
    return x.argmax(1)


def require_same_shape(p: Tensor, q: Tensor, labels: Tensor) -> None:
    """ModelError unless both are [n, outputs] for n labels."""
    if p.shape != q.shape or p.dim() != 2 or len(p) != len(labels):
        raise ModelError(
            "original and compressed model do not give outputs of the same shape",
            got=f"{tuple(q.shape)} for {len(labels)} labels",
            expected=tuple(p.shape),
        )


class Divergence:
    """Collects what two models say about the same tokens, window by window."""

    def __init__(self) -> None:
        self._parts: list[Tokens] = []
        self.windows = 0

    def begin_window(self) -> None:
        self.windows += 1

    def add(self, p: Tensor, q: Tensor, labels: Tensor) -> None:
        """Logits [n, V] of the next n positions of the current window, without those whose label is < 0."""
        require_same_shape(p, q, labels)
        if len(labels) and int(labels.max()) >= p.shape[1]:
            raise TextError(
                "a token id is outside the model's outputs",
                got=int(labels.max()),
                expected=f"below {p.shape[1]}",
                remedy="use the tokenizer that belongs to the model",
            )
        step = max(1, _LOGITS_AT_ONCE.get(p.device.type, _LOGITS_AT_ONCE_ELSEWHERE) // p.shape[1])
        for begin in range(0, len(p), step):
            part = slice(begin, begin + step)
            self._add(p[part], q[part].to(p.device), labels[part].to(p.device))

    def _add(self, p: Tensor, q: Tensor, labels: Tensor) -> None:
        keep = labels >= 0
        if not keep.all():
            p, q, labels = p[keep], q[keep], labels[keep]
        rows = diverge(p.detach(), q.detach(), labels)
        self._parts.append(
            Tokens(
                np.full(len(labels), self.windows, dtype=np.int64),
                rows.kl.cpu().numpy(),
                rows.agrees.cpu().numpy(),
                rows.confidence.cpu().numpy(),
                rows.loss_original.cpu().numpy(),
                rows.loss_compressed.cpu().numpy(),
            )
        )

    def tokens(self) -> Tokens:
        return Tokens.joined(self._parts)

    def figures(self) -> Figures:
        return figures(self.tokens(), self.windows)


def together(parts: Iterable[Divergence]) -> Figures:
    """Figures over the tokens of all parts."""
    tokens: list[Tokens] = []
    windows = 0
    for part in parts:
        own = part.tokens()
        tokens.append(replace(own, window=own.window + windows))
        windows += part.windows
    return figures(Tokens.joined(tokens), windows)
