"""Fill a module of any class from an opened file."""

from __future__ import annotations

import torch
from torch import nn

from higgsx.archive import Archive
from higgsx.nn.swap import Filled, fill


def fill_from(archive: Archive, module: nn.Module, dtype: torch.dtype | None = None) -> Filled:
    """Load every tensor of a file into a module whose parameters have their names; tied copies stand for each
    other. Compressed weights stay packed. ModelError, before anything changes, where file and module do not
    fit."""
    names = {name: name for name in archive.tensors}
    for tied in archive.ties:
        names |= dict.fromkeys(tied, next(name for name in tied if name in archive.tensors))
    held = {name: archive.arrays(name) for name in archive.tensors}
    arrays = {name: held[stored] for name, stored in names.items()}
    descriptors = {name: archive.tensors[stored].descriptor for name, stored in names.items()}
    return fill(module, descriptors, arrays, dtype)
