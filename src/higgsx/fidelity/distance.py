"""How far hidden states move: relative squared error and cosine, for positions and for whole texts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from higgsx.fidelity.divergence import require_same_shape
from higgsx.fidelity.figures import NOTHING, Estimate, Figures, Spread, Vectors, estimate, spread


class Distance:
    """Collects, batch by batch, how far the vectors of two models lie apart."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, Tensor, Tensor]] = []
        self._wholes: list[tuple[int, Tensor]] = []
        self.windows = 0

    def begin_window(self) -> None:
        self.windows += 1

    def add(self, p: Tensor, q: Tensor, labels: Tensor) -> None:
        """Vectors [n, H] of the original and of the other model; those whose label is < 0 are left out."""
        require_same_shape(p, q, labels)
        keep = labels.to(p.device) >= 0
        p, q = p[keep].detach().double(), q.to(p.device)[keep].detach().double()
        error = (p - q).pow(2).sum(1) / p.pow(2).sum(1)
        # a vector of nothing that stays nothing has lost nothing; an original that is broken stays NaN
        error = torch.where((p == 0).all(1) & (q == 0).all(1), torch.zeros_like(error), error)
        error = torch.where(p.isfinite().all(1), error, torch.full_like(error, torch.nan))
        error = torch.where(
            p.isfinite().all(1) & ~q.isfinite().all(1), torch.full_like(error, torch.inf), error
        )
        self._rows.append((self.windows, error.cpu(), _cosine(p, q).cpu()))

    def add_wholes(self, p: Tensor, q: Tensor) -> None:
        """One vector for each text of the current batch [B, H]."""
        self._wholes.append(
            (self.windows, _cosine(p.detach().double(), q.to(p.device).detach().double()).cpu())
        )

    def figures(self) -> Figures:
        return together([self])


def _cosine(p: Tensor, q: Tensor) -> Tensor:
    """1 exactly where both are equal, also where both are nothing."""
    found = torch.nn.functional.cosine_similarity(p, q, dim=1, eps=1e-30)
    return torch.where((p == q).all(1), torch.ones_like(found), found)


def together(parts: Iterable[Distance]) -> Figures:
    """Figures over the positions of all parts."""
    windows, rows, wholes = 0, [], []
    for part in parts:
        rows += [(windows + window, error, cosine) for window, error, cosine in part._rows]
        wholes += [(windows + window, cosine) for window, cosine in part._wholes]
        windows += part.windows
    owner = _owners([(window, len(error)) for window, error, _ in rows])
    error = _joined([error for _, error, _ in rows])
    cosine = _joined([cosine for _, _, cosine in rows])
    fine = np.isfinite(error)
    whole_owner = _owners([(window, len(values)) for window, values in wholes])
    whole = _joined([values for _, values in wholes])
    whole, whole_owner = whole[np.isfinite(whole)], whole_owner[np.isfinite(whole)]
    kept, kept_owner = cosine[fine], owner[fine]
    return Figures(
        tokens=int(fine.sum()),
        windows=windows,
        broken_original=int(np.isnan(error).sum()),
        broken_compressed=int(np.isinf(error).sum()),
        kl=Spread(NOTHING, None, None, None, None, None),
        top1=NOTHING,
        original=NOTHING,
        compressed=NOTHING,
        log_ratio=NOTHING,
        buckets=(),
        vectors=Vectors(
            error=spread(error[fine], kept_owner),
            cosine=estimate(kept, kept_owner),
            least=_least(kept),
            texts=len(whole),
            pooled=estimate(whole, whole_owner) if len(whole) else Estimate(None, None),
            pooled_least=_least(whole),
        ),
    )


def _owners(counts: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.concatenate([np.full(count, window) for window, count in counts] or [np.empty(0, np.int64)])


def _joined(parts: list[Tensor]) -> NDArray[np.float64]:
    return np.concatenate([part.numpy() for part in parts] or [np.empty(0)])


def _least(values: NDArray[np.float64]) -> float | None:
    return float(values.min()) if len(values) else None
