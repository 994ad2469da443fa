"""Sensitivities by the definition: every position has a weight of its own, whose gradient is formed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from higgsx.tasks import NO_LABEL


class Everything:
    """A task in which every position of a batch of token ids counts."""

    kind = "language"

    def __init__(self, outputs: str = "logits") -> None:
        self.outputs = outputs

    def call(self, model: Any, batch: Any) -> Tensor:
        out = model(batch)
        out = getattr(out, "logits", out)
        return out.reshape(-1, out.shape[-1])

    def pieces(self, model: Any, batch: Any, positions: int):
        yield from self.call(model, batch).split(positions)

    def labels(self, batch: Any) -> Tensor:
        return torch.zeros(
            batch.numel() if not batch.is_floating_point() else batch.shape[0], dtype=torch.int64
        )

    def tokens(self, batch: Any) -> int:
        return int((self.labels(batch) != NO_LABEL).sum())


class Own:
    """Gives every position of a product a change of the weight of its own, all zero, and keeps them."""

    def __init__(self) -> None:
        self.changes: dict[str, list[tuple[Tensor, Callable[[Tensor], Tensor]]]] = {}

    def linear(self, name: str, x: Tensor, weight: Tensor) -> Tensor:
        """x `[T, in]`, weight `[out, in]`."""
        change = torch.zeros(len(x), *weight.shape, requires_grad=True)
        self.changes.setdefault(name, []).append((change, lambda g: g.square().sum((0, 2))))
        return torch.einsum("toi,ti->to", weight + change, x)

    def look_up(self, name: str, ids: Tensor, table: Tensor) -> Tensor:
        change = torch.zeros(len(ids), table.shape[1], requires_grad=True)

        def rows(g: Tensor) -> Tensor:
            found = torch.zeros(len(table))
            for token, one in zip(ids.tolist(), g, strict=True):
                found[token] += one.square().sum()
            return found

        self.changes.setdefault(name, []).append((change, rows))
        return table[ids] + change

    def sums(self) -> dict[str, Tensor]:
        return {
            name: sum(rows(change.grad) for change, rows in members) for name, members in self.changes.items()
        }

    def columns(self) -> dict[str, Tensor]:
        """The same by input: changes are `[T, out, in]`, of look-ups `[T, in]`."""
        return {
            name: sum(change.grad.square().reshape(-1, change.shape[-1]).sum(0) for change, _ in members)
            for name, members in self.changes.items()
        }


def silent_parameters(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model.eval()
