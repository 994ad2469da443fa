"""The short check after encoding: original and compressed side by side, or said why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor, nn

from higgsx.archive import Archive
from higgsx.errors import TextError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.openings import Generate, continue_openings, load_openings
from higgsx.fidelity.report import Arithmetic, Damage, NotMeasured
from higgsx.fidelity.texts import cut, encode, text_windows
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Encoder, ModelHandle, Task
from higgsx.units import format_bytes

WINDOW = 64
"""Tokens of a window of the model's own continuations."""
TEXT_WINDOW = 256
MOST_WINDOWS = 16
MODE = "weights bf16, arithmetic bf16"
_ROOM = 1.1
"""Activations and logits of one window stand beside the weights."""


class Checkable(ModelHandle, Protocol):
    """What a handle needs so that damage can be measured."""

    @property
    def task(self) -> Task | None:
        """How the model is called and scored, None if that is unknown."""
        ...

    @property
    def positions(self) -> int | None:
        """Tokens that the model can take at most, None if there is no such number."""
        ...

    def encoder(self) -> Encoder | None: ...
    def sampler(self, model: nn.Module) -> Generate: ...
    def load(self, archive: Archive, dtype: torch.dtype) -> nn.Module: ...


@dataclass(frozen=True)
class Ready:
    """What will be measured on: windows of the user's text, or none for the package's own openings."""

    task: Task
    encoder: Encoder
    windows: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


def needed(source: Checkpoint) -> int:
    """Bytes of RAM that the check takes: both models in bf16."""
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    return int(_ROOM * 2 * 2 * weights) + (1 << 29)


def prepare(source: Checkpoint, handle: Checkable, text: str | Path | None = None) -> Ready | NotMeasured:
    """Try whatever can fail before hours of encoding: tokenizer and text.

    text  a UTF-8 file to measure on; None: the package's openings, continued by the original itself
    TextError where the text cannot be used, or where the tokenizer is not the model's.
    """
    task, encoder = handle.task, handle.encoder()
    if task is None:
        return NotMeasured("no task is known for this kind of model")
    if encoder is None:
        return NotMeasured("the model has no tokenizer")
    if text is not None:
        length = within(TEXT_WINDOW, handle.positions)
        return Ready(task, encoder, {"text": text_windows(text, encoder, length, MOST_WINDOWS)})
    for members in load_openings().values():
        for opening in members:
            encode(opening, encoder, "tokenizer")
    return _too_large(source) or Ready(task, encoder)


def within(window: int, positions: int | None) -> int:
    """The length of a window, cut to what the model can take."""
    return window if positions is None else min(window, positions)


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
    windows, described = ready.windows, "a text of the user's"
    if not windows:
        windows, described = _openings(handle, original, ready.encoder)
    compressed = handle.load(archive, torch.bfloat16)
    tell = None if progress is None else lambda done, total: progress("measuring damage", done, total)
    arithmetic = Arithmetic(MODE, MODE)
    return compare(
        original, compressed, windows, arithmetic=arithmetic, text=described, task=ready.task, progress=tell
    )


def _openings(
    handle: Checkable, original: nn.Module, encoder: Encoder
) -> tuple[Mapping[str, Sequence[Tensor]], str]:
    length = within(WINDOW, handle.positions)
    try:
        windows = continue_openings(handle.sampler(original), encoder, length=length)
    except RuntimeError:  # nothing can be drawn from NaN; measuring will find it, and the gate say it
        texts = [text for members in load_openings().values() for text in members]
        ids = [token for text in texts for token in encode(text, encoder, "openings")]
        return {"openings": cut(ids, encoder, length, MOST_WINDOWS)}, "openings of this package"
    return windows, "openings of this package, continued by the original"


def _too_large(source: Checkpoint) -> NotMeasured | None:
    free = psutil.virtual_memory().available
    if needed(source) <= free:
        return None
    return NotMeasured(f"needs {format_bytes(needed(source))} of free RAM, there are {format_bytes(free)}")
