"""The short check after encoding: original and compressed side by side, or said why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import nn

from higgsx.archive import Archive
from higgsx.errors import TextError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.quality import Judge
from higgsx.fidelity.report import Arithmetic, Damage, NotMeasured
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Batches, ModelHandle, Task, Wanted
from higgsx.units import format_bytes

WINDOW = 64
"""Tokens of a window of a language model's own continuations."""
MOST_TOKENS = 4096
"""Positions that are measured at most."""
MODE = "weights bf16, arithmetic bf16"
_ROOM = 1.1
"""Activations and logits of one window stand beside the weights."""


class Checkable(ModelHandle, Protocol):
    """What a handle needs so that damage can be measured."""

    @property
    def task(self) -> Task:
        """How the model is called and scored."""
        ...

    @property
    def positions(self) -> int | None:
        """Tokens that the model can take at most, None if there is no such number."""
        ...

    @property
    def lacks(self) -> str | None:
        """What is missing so that batches can be made (a tokenizer …), None if nothing is."""
        ...

    def batches(self, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
        """What the model's task is run on.

        model  gives the original; called only where something must be drawn from it, after everything that
               can be wrong with the material has been found
        TextError, UsageError where the material cannot be used.
        """
        ...

    def judge(self) -> Judge | None:
        """Lets a model do its work and knows what is right; None where there is no answer to rate."""
        ...

    def load(self, archive: Archive, dtype: torch.dtype) -> nn.Module: ...


@dataclass(frozen=True)
class Ready:
    """What will be measured on: batches, or None where they are made when the original is loaded."""

    task: Task
    wanted: Wanted
    batches: Batches | None


class _Later(Exception):
    """The original would be needed, which is not loaded yet."""


def _not_yet() -> nn.Module:
    raise _Later


def early(handle: Checkable, wanted: Wanted) -> Batches | None:
    """Batches where they can be made without the original; None where it is needed, and nothing else is wrong
    with the material."""
    try:
        return handle.batches(_not_yet, wanted)
    except _Later:
        return None


def needed(source: Checkpoint) -> int:
    """Bytes of RAM that the check takes: both models in bf16."""
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    return int(_ROOM * 2 * 2 * weights) + (1 << 29)


def prepare(
    source: Checkpoint, handle: Checkable, text: str | Path | None = None, shared: bool = False
) -> Ready | NotMeasured:
    """Try whatever can fail before hours of encoding: tokenizer and material.

    text    what to measure on (a text, clips, pairs …: what the task reads); None: from nothing
    shared  choices are learned from the same file: only a share of it is measured on
    TextError where the material cannot be used, or where the tokenizer is not the model's.
    """
    if handle.lacks is not None:
        return NotMeasured(handle.lacks)
    wanted = Wanted(MOST_TOKENS, None if text is None else Path(text), shared=shared)
    ready = Ready(handle.task, wanted, early(handle, wanted))
    # made early, a file of the user's: it is checked at the end whether both models fit
    return ready if ready.batches is not None else _too_large(source) or ready


def check(
    source: Checkpoint, handle: Checkable, archive: Archive, ready: Ready, progress: Any = None
) -> Damage | NotMeasured:
    """Measure the damage of an archive against its source. What has been encoded is not lost where that does
    not work out: then the record says why nothing was measured."""
    try:
        return _too_large(source) or _measured(handle, archive, ready, progress)
    except TextError as error:
        return NotMeasured(str(error))
    except (RuntimeError, MemoryError, OSError) as error:  # no memory, or an original that does not run
        lines = str(error).strip().splitlines()
        return NotMeasured(f"{type(error).__name__}: {lines[0][:200] if lines else ''}")


def _measured(handle: Checkable, archive: Archive, ready: Ready, progress: Any) -> Damage:
    original = handle.materialise(torch.bfloat16)
    batches = ready.batches or handle.batches(lambda: original, ready.wanted)
    compressed = handle.load(archive, torch.bfloat16)
    tell = None if progress is None else lambda done, total: progress("measuring damage", done, total)
    arithmetic = Arithmetic(MODE, MODE)
    own = ready.wanted.path is not None and ready.task.kind == "language"
    described = "a text of the user's" if own else batches.described
    return compare(
        original, compressed, batches.members, arithmetic=arithmetic, text=described, task=ready.task,
        progress=tell,
    )  # fmt: skip


def _too_large(source: Checkpoint) -> NotMeasured | None:
    free = psutil.virtual_memory().available
    if needed(source) <= free:
        return None
    return NotMeasured(f"needs {format_bytes(needed(source))} of free RAM, there are {format_bytes(free)}")
