"""A module in memory as a checkpoint: its own names, its own dtypes, no files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from blake3 import blake3
from torch import Tensor, nn

from higgsx.codecs.base import DTYPE_BYTES, torch_dtype
from higgsx.errors import SourceError
from higgsx.source.checkpoint import Checkpoint
from higgsx.source.header import TensorInfo

_NOWHERE = Path(os.devnull)


@dataclass(frozen=True)
class ModuleSource(Checkpoint):
    """Parameters and saved buffers of a module by their dotted names. Its values are read when they are
    asked for: it must not change meanwhile."""

    @classmethod
    def of(cls, module: nn.Module) -> ModuleSource:
        """SourceError where there is nothing, a tensor on the meta device, or one of a dtype that no file
        holds."""
        names = {torch_dtype(name): name for name in DTYPE_BYTES}
        tensors = {}
        for name, tensor in module.state_dict().items():
            if not isinstance(tensor, Tensor):
                raise SourceError(
                    "more than tensors belong to the module", where=name, got=type(tensor).__name__
                )
            if tensor.is_meta or tensor.dtype not in names:
                raise SourceError(
                    "has no values" if tensor.is_meta else "is of a dtype that no file holds",
                    where=name, got=tensor.dtype,
                )  # fmt: skip
            size = tensor.numel() * tensor.element_size()
            tensors[name] = TensorInfo(name, names[tensor.dtype], tuple(tensor.shape), _NOWHERE, 0, size)
        if not tensors:
            raise SourceError("the module has no parameters", where=type(module).__name__)
        made = cls(_NOWHERE, {}, tensors)
        made._module.append(module)
        return made

    @cached_property
    def _module(self) -> list[nn.Module]:
        return []

    def assets(self, names: Iterable[str]) -> dict[str, bytes]:
        """A module has no files beside it."""
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 (hex) over names, dtypes, shapes and all values."""
        digest = blake3()
        for name, info in sorted(self.tensors.items()):
            digest.update(f"{name}\0{info.dtype}\0{info.shape}\0".encode())
            digest.update(self.read(name).reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def read(self, name: str) -> Tensor:
        """A copy on the CPU in the tensor's own dtype."""
        return self._tensor(name).cpu().clone(memory_format=torch.contiguous_format)

    def read_rows(self, name: str, begin: int, end: int) -> Tensor:
        return self._tensor(name)[begin:end].cpu().clone(memory_format=torch.contiguous_format)

    def _tensor(self, name: str) -> Tensor:
        owner, _, own = name.rpartition(".")
        found: Tensor = getattr(self._module[0].get_submodule(owner), own)
        return found.detach()
