"""A module of any class, with a task, as the pipeline needs it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from higgsx.archive import Archive
from higgsx.errors import ModelError, UsageError
from higgsx.fidelity.material import share_of
from higgsx.fidelity.quality import Judge
from higgsx.nn.densify import densify
from higgsx.nn.stored import fill_from
from higgsx.tasks import Batches, Task, Wanted

_SMALL = 20_000_000
"""Weights up to which a copy of the module itself is what replaced weights are tried out on."""


class ModuleHandle:
    """See `higgsx.pipeline.check.Checkable`.

    module   is never changed; values, mode and hooks stay as they are
    batches  of the task, at least one. What is learned from and what is measured on are kept apart: the first
             80 % and the rest
    UsageError without batches, ModelError where the task cannot call the module with them.
    """

    positions = None

    def __init__(self, module: nn.Module, task: Task, batches: Sequence[Any]) -> None:
        if not batches:
            raise UsageError(
                "a module needs something to run on",
                got="no batches",
                expected="one batch of its task or more",
            )
        self.task, self._module, self._batches = task, module, list(batches)
        try:
            with torch.no_grad():
                rows = task.call(self._copy(module), self._batches[0])
        except Exception as error:  # code of the user's
            raise ModelError(
                "the task cannot call the module", where=type(module).__name__,
                got=f"{type(error).__name__}: {str(error).strip()[:200]}",
            ) from error  # fmt: skip
        labels = task.labels(self._batches[0])
        if rows.dim() != 2 or len(rows) != len(labels):
            raise ModelError(
                "the task does not give one row for each label", where=type(module).__name__,
                got=f"shape {tuple(rows.shape)} for {len(labels)} labels", expected="[positions, outputs]",
            )  # fmt: skip

    @cached_property
    def names(self) -> Mapping[str, str]:
        return {name: name for name in self._module.state_dict()}

    @property
    def unmapped(self) -> Mapping[str, str]:
        return {}

    @property
    def lacks(self) -> str | None:
        return None

    def skeleton(self) -> nn.Module:
        """The same structure on the meta device, ties kept."""
        memo: dict[int, Any] = {}
        for tensor in (*self._module.parameters(), *self._module.buffers()):
            empty = torch.empty_like(tensor, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return copy.deepcopy(self._module, memo).eval()

    def small(self) -> nn.Module | None:
        weights = sum(parameter.numel() for parameter in self._module.parameters())
        return self._copy(self._module).float() if weights <= _SMALL else None

    def call(self, model: nn.Module) -> Tensor:
        """The first batch, on the device that the model is on."""
        device = next((one.device for one in model.parameters()), torch.device("cpu"))
        batch = tree_map(
            lambda one: one.to(device) if isinstance(one, Tensor) else one, _open(self._batches[0])
        )
        with torch.no_grad():
            return self.task.call(model, _closed(self._batches[0], batch))

    def materialise(self, dtype: torch.dtype) -> nn.Module:
        return self._copy(self._module).to(dtype)

    def batches(self, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
        if wanted.path is not None or wanted.window is not None:
            raise UsageError(
                "a module is run on the batches that it came with",
                got=wanted.path or f"window {wanted.window}",
                remedy="make batches of your file and give those",
            )  # fmt: skip
        found: list[Any] = []
        count = 0
        for batch in share_of(self._batches, wanted.part, True, "batches"):
            count += self.task.tokens(batch)
            if found and count > wanted.most_tokens:
                break
            found.append(batch)
        return Batches({"batches": found}, "batches that came with the module")

    def judge(self) -> Judge | None:
        return None

    def load(self, archive: Archive, dtype: torch.dtype) -> nn.Module:
        made = self.materialise(dtype)
        fill_from(archive, made, dtype)
        densify(made)
        return made

    @staticmethod
    def _copy(module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).eval()


def _open(batch: Any) -> Any:
    """What `tree_map` looks into: an `Example` as the mapping that it holds."""
    return dict(batch.inputs) if hasattr(batch, "inputs") else batch


def _closed(batch: Any, moved: Any) -> Any:
    return dataclasses.replace(batch, inputs=moved) if hasattr(batch, "inputs") else moved
