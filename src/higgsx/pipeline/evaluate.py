"""Damage on texts that a person names: original and compressed in one arithmetic, window by window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from higgsx.archive import Archive
from higgsx.errors import MemoryBudgetError, ModelError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.report import Arithmetic, Damage
from higgsx.pipeline.check import MOST_TOKENS, Checkable, early
from higgsx.pipeline.plan import Progress
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Batches, Wanted
from higgsx.units import format_bytes

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
_ROOM = 1 << 30
LONGEST = 512
"""Tokens of a window of a text, where the model can take so many."""
_ALL = 1 << 40


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
    task = handle.task
    if handle.lacks is not None:
        raise ModelError(handle.lacks, where=source.folder)
    _require_same_shapes(source, archive)
    paths = {name: Path(path) for name, path in (texts or {}).items()}
    length = (handle.positions and min(LONGEST, handle.positions)) if window is None and paths else window
    # of anything but windows of equal length nobody knows beforehand how many tokens the first few have
    most = limit * (length or LONGEST) if limit is not None and task.kind == "language" else _ALL
    wanted = {name: Wanted(most, path, length) for name, path in paths.items()}
    found = {name: early(handle, one) for name, one in wanted.items()}
    _require_ram(source, dtype, floor)
    original = handle.materialise(dtype)
    if wanted:
        batches = _all(handle, lambda: original, wanted, found, limit)
    else:
        batches = handle.batches(lambda: original, Wanted(MOST_TOKENS, window=length))
    compressed = handle.load(archive, dtype)
    coarse = handle.materialise(torch.bfloat16) if floor else None
    mode = f"weights {_NAMES[dtype]}, arithmetic {_NAMES[dtype]}"
    arithmetic = Arithmetic(mode, mode, "weights bf16, arithmetic bf16" if floor else None)
    return compare(
        original, compressed, batches.members, arithmetic=arithmetic, text=batches.described, task=task,
        floor=coarse, judge=handle.judge(),
        progress=lambda done, total: progress("measuring damage", done, total),
    )  # fmt: skip


def _all(
    handle: Checkable,
    original: Callable[[], nn.Module],
    wanted: Mapping[str, Wanted],
    found: Mapping[str, Batches | None],
    limit: int | None,
) -> Batches:
    """Batches of every file under its name, at most `limit` of each; `found` is what was made early."""
    members: dict[str, list[Any]] = {}
    words: dict[str, None] = {}
    for name, one in wanted.items():
        made = found[name] or handle.batches(original, one)
        members[name] = made.all()[:limit]
        words[made.described] = None
    counts = ", ".join(f"{len(batches)} of {name}" for name, batches in members.items())
    return Batches(members, f"{'; '.join(words)}: {counts}")


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


def _require_ram(source: Checkpoint, dtype: torch.dtype, floor: bool) -> None:
    weights = sum(info.nbytes // info.torch_dtype.itemsize for info in source.tensors.values())
    needed = weights * (2 * dtype.itemsize + (2 if floor else 0)) + _ROOM
    free = psutil.virtual_memory().available
    if needed > free:
        raise MemoryBudgetError(
            "both models do not fit the free RAM", got=format_bytes(free), expected=format_bytes(needed),
            remedy="close other programs, or use --dtype bf16 and --no-floor",
        )  # fmt: skip
