"""Damage on texts that a person names: original and compressed in one arithmetic, window by window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from higgsx.archive import Archive
from higgsx.errors import MemoryBudgetError, ModelError, UsageError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.openings import continue_openings
from higgsx.fidelity.report import Arithmetic, Damage
from higgsx.fidelity.texts import text_windows
from higgsx.pipeline.check import WINDOW, Checkable, within
from higgsx.pipeline.plan import Progress
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Encoder
from higgsx.units import format_bytes

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_ROOM = 1 << 30
LONGEST = 512
"""Tokens of a window, where the model can take so many."""


def evaluate(
    source: Checkpoint,
    handle: Checkable,
    archive: Archive,
    texts: Mapping[str, str | Path] | None,
    window: int | None,
    limit: int | None,
    dtype: torch.dtype,
    floor: bool,
    progress: Progress,
) -> Damage:
    """See `higgsx.evaluate`. MemoryBudgetError before anything is loaded if the models do not fit the RAM."""
    task, encoder = handle.task, handle.encoder()
    if task is None or encoder is None:
        raise ModelError("no task is known for this model, or it has no tokenizer", where=source.folder)
    _require_same_shapes(source, archive)
    if window is not None and window > (handle.positions or window):
        raise UsageError("window is longer than the model can take", got=window, expected=handle.positions)
    window = within(LONGEST, handle.positions) if window is None else window
    cut = {name: text_windows(path, encoder, window, limit) for name, path in (texts or {}).items()}
    _require_ram(source, dtype, floor)
    original = handle.materialise(dtype)
    windows: Mapping[str, Sequence[torch.Tensor]] = cut or continue_openings(
        handle.sampler(original), encoder, length=within(WINDOW, handle.positions)
    )
    compressed = handle.load(archive, dtype)
    coarse = handle.materialise(torch.bfloat16) if floor else None
    mode = f"weights {_NAMES[dtype]}, arithmetic {_NAMES[dtype]}"
    arithmetic = Arithmetic(mode, mode, "weights bf16, arithmetic bf16" if floor else None)
    text = _described(cut, encoder, window)
    return compare(
        original, compressed, windows, arithmetic=arithmetic, text=text, task=task, floor=coarse,
        progress=lambda done, total: progress("measuring damage", done, total),
    )  # fmt: skip


def _require_same_shapes(source: Checkpoint, archive: Archive) -> None:
    for name, stored in archive.tensors.items():
        info = source.tensors.get(name)
        if info is not None and info.shape != stored.descriptor.shape:
            raise ModelError(
                "the file was made of another model",
                where=name,
                got=f"shape {stored.descriptor.shape}",
                expected=f"{info.shape}",
                remedy="compare it with its own original",
            )


def _described(windows: Mapping[str, Sequence[torch.Tensor]], encoder: Encoder, window: int) -> str:
    if not windows:
        return "openings of this package, continued by the original"
    front = "with" if encoder.first is not None else "without"
    counts = ", ".join(f"{len(members)} of {name}" for name, members in windows.items())
    return f"windows of {window} tokens, {front} a beginning-of-text token: {counts}"


def _require_ram(source: Checkpoint, dtype: torch.dtype, floor: bool) -> None:
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    needed = weights * (2 * dtype.itemsize + (2 if floor else 0)) + _ROOM
    free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryBudgetError(
            "both models do not fit the free RAM", got=format_bytes(free), expected=format_bytes(needed),
            remedy="close other programs, or use --dtype bf16 and --no-floor",
        )  # fmt: skip
