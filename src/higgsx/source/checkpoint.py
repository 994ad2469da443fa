"""A Hugging Face folder: configuration, assets, and the tensors of its safetensors files, read on demand.

Nothing is mapped and nothing is kept: tensors are read with `pread` in slabs of rows, so that compressing a
model never holds more of it than the slab at hand.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from blake3 import blake3

from higgsx import io
from higgsx.errors import SourceError
from higgsx.source.header import TensorInfo, read_header

MAX_ASSET = 64 << 20
INDEX = "model.safetensors.index.json"
_ENDS = 4096
_SHARD = re.compile(r"-\d+-of-\d+\.safetensors$")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Checkpoint:
    """folder   where it lies
    config   its config.json
    tensors  what its files hold, by name, in the order of the files
    """

    folder: Path
    config: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    _open: dict[Path, int] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read configuration and headers. SourceError where something is absent, incomplete or refused."""
        config = _config(folder)
        tensors: dict[str, TensorInfo] = {}
        for file in _weight_files(folder):
            for info in read_header(file).values():
                if info.name in tensors:
                    raise SourceError("two shards hold the same tensor", where=f"{file.name}: {info.name}")
                tensors[info.name] = info
        _check_index(folder, tensors)
        return cls(folder, config, tensors)

    def assets(self, names: Iterable[str]) -> dict[str, bytes]:
        """Contents of those of the named files that are there."""
        found = {}
        for name in sorted(names):
            path = self.folder / name
            if path.is_file():
                found[name] = io.read_bytes(path, limit=MAX_ASSET)
        return found

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE3 (hex) over headers, sizes and the first and last 4 KiB of every tensor."""
        digest = blake3()
        for name, info in sorted(self.tensors.items()):
            digest.update(f"{name}\0{info.dtype}\0{info.shape}\0".encode())
            head = min(_ENDS, info.nbytes)
            digest.update(io.read_at(self._fd(info.file), info.begin, head))
            digest.update(io.read_at(self._fd(info.file), info.end - head, head))
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor in its own dtype."""
        info = self.tensors[name]
        return self._read(info, info.begin, info.nbytes).view(info.torch_dtype).view(info.shape)

    def read_rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Entries `begin` to `end` along the first dimension, in the tensor's own dtype."""
        info = self.tensors[name]
        row = info.nbytes // info.shape[0]
        data = self._read(info, info.begin + begin * row, (end - begin) * row)
        return data.view(info.torch_dtype).view(end - begin, *info.shape[1:])

    def close(self) -> None:
        """Reading afterwards opens the files again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _read(self, info: TensorInfo, offset: int, nbytes: int) -> torch.Tensor:
        buffer = bytearray(nbytes)
        io.read_into(self._fd(info.file), offset, memoryview(buffer))
        return torch.frombuffer(buffer, dtype=torch.uint8)

    def _fd(self, file: Path) -> int:
        with self._lock:
            if file not in self._open:
                self._open[file] = io.open_for_reading(file)
            return self._open[file]


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(
            "no config.json", where=folder, remedy="give the folder that transformers would load"
        )
    config = io.read_json(path)
    if not isinstance(config, dict):
        raise SourceError("not a model configuration", where=path, expected="a JSON object")
    method = config.get("quantization_config")
    if method:
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise SourceError(
            "is already quantized",
            where=folder,
            got=f"method {name}",
            remedy="compress the original model; importers for other methods do not exist yet",
        )
    return config


def _weight_files(folder: Path) -> list[Path]:
    """As transformers chooses: one file, else the shards of the index."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    index = folder / INDEX
    if index.is_file():
        shards = sorted(set(_weight_map(index).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise SourceError(
                "a shard is missing", where=folder, got=", ".join(missing), remedy="download it again"
            )
        return [folder / name for name in shards]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1 and not _SHARD.search(found[0].name):
        return found
    if found:
        raise SourceError(
            "shards of weights and no index", where=folder, expected=INDEX, remedy="download the index too"
        )
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise SourceError(
            "weights only in a format that can run code when loaded",
            where=folder,
            expected="*.safetensors",
            remedy="if you trust it, convert: AutoModel.from_pretrained(folder).save_pretrained(new_folder)",
        )
    raise SourceError("no weights", where=folder, expected="model.safetensors or shards with an index")


def _weight_map(index: Path) -> dict[str, str]:
    data = io.read_json(index)
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise SourceError("not an index of shards", where=index)
    for file in names.values():
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise SourceError(
                "an index may only name safetensors files beside it", where=index, got=repr(file)
            )
    return names


def _check_index(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    index = folder / INDEX
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return
    absent = [name for name in _weight_map(index) if name not in tensors]
    if absent:
        raise SourceError(
            "the shards lack tensors that the index names", where=folder, got=", ".join(absent[:5])
        )
