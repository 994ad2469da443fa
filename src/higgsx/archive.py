"""An opened `.hgs`: the file joined with codecs and transforms. No planner, no model.

Opening checks structure, sizes and parameters; `verify` reads every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from higgsx.codecs.base import torch_dtype
from higgsx.descriptor import Descriptor
from higgsx.errors import FormatError
from higgsx.hgs.manifest import Manifest
from higgsx.hgs.reader import HgsFile
from higgsx.jsontext import parse_json
from higgsx.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Progress = Callable[[int, int], None]
"""Told how many bytes are done, of how many."""


@dataclass(frozen=True)
class Stored:
    """One tensor of the file; `arrays` are names in the file by suffix."""

    name: str
    descriptor: Descriptor
    arrays: Mapping[str, str]
    nbytes: int


class Archive:
    """Tensors by their checkpoint names in the order of the file; assets, plan, recipe, damage record."""

    def __init__(self, file: HgsFile) -> None:
        self.file = file
        names = sorted(
            file.manifest.tensors, key=lambda name: file.arrays[file.manifest.tensors[name].arrays[0]].begin
        )
        self.tensors = {name: _stored(file, name) for name in names}

    @classmethod
    def open(cls, path: str | Path) -> Archive:
        """FormatError or StorageError where it is no valid file; costs no reading of weights."""
        file = HgsFile.open(path)
        try:
            return cls(file)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()

    @property
    def manifest(self) -> Manifest:
        return self.file.manifest

    @property
    def ties(self) -> tuple[tuple[str, ...], ...]:
        """Names that are one tensor; the first of each is stored."""
        return tuple(tuple(names) for names in self.manifest.ties)

    @property
    def config(self) -> dict[str, object]:
        """The model's configuration, empty if there is none; FormatError where it is no JSON object."""
        if "config.json" not in self.file.assets:
            return {}
        where = f"{self.file.path}: config.json"
        try:
            config = parse_json(self.file.asset("config.json").decode(), where=where, error=FormatError)
        except UnicodeDecodeError:
            raise FormatError("is no UTF-8 text", where=where, code="UTF8") from None
        if not isinstance(config, dict):
            raise FormatError("not a JSON object", where=where, code="ASSET")
        return config

    def assets(self) -> dict[str, bytes]:
        return {name: self.file.asset(name) for name in self.file.assets}

    def arrays(self, name: str) -> dict[str, torch.Tensor]:
        """The stored arrays of a tensor by suffix: the mapped file itself, nothing is copied."""
        found = {}
        for suffix, array in self.tensors[name].arrays.items():
            info = self.file.arrays[array]
            raw = torch.from_numpy(self.file.mapped(array))
            found[suffix] = raw.view(torch_dtype(info.dtype)).view(tuple(info.shape))
        return found

    def decode(self, name: str) -> torch.Tensor:
        """Normative values, float32 (an exact tensor: its own dtype), in the original's shape."""
        return self.tensors[name].descriptor.decode(self.arrays(name))

    def bits(self) -> float:
        """Average bits of a weight: payloads of all tensors of two or more dimensions over their weights."""
        matrices = [stored for stored in self.tensors.values() if len(stored.descriptor.shape) >= 2]
        weights = sum(stored.descriptor.weights for stored in matrices)
        return 8 * sum(stored.nbytes for stored in matrices) / weights if weights else 0.0

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Names of damaged parts, each with what is wrong; empty when every byte is as it was written."""
        damaged = list(self.file.verify(progress))
        for name, stored in self.tensors.items():
            if name in damaged or stored.descriptor.is_dense:
                continue
            damaged += [f"{name}: {complaint}" for complaint in stored.descriptor.check(self.arrays(name))]
        return damaged


def _stored(file: HgsFile, name: str) -> Stored:
    entry = file.manifest.tensors[name]
    try:
        descriptor = Descriptor.from_json(entry.descriptor)
    except FormatError as error:
        raise FormatError(
            error.what, where=name, got=error.got, expected=error.expected, code=error.code
        ) from None
    arrays = {suffix: name + suffix for suffix in descriptor.arrays()}
    if sorted(arrays.values()) != sorted(entry.arrays):
        raise FormatError(
            "arrays do not fit the codec", where=name, got=sorted(entry.arrays), code="MANIFEST"
        )
    nbytes = 0
    for suffix, (dtype, shape) in descriptor.arrays().items():
        info = file.arrays[name + suffix]
        if (info.dtype, tuple(info.shape)) != (dtype, shape):
            raise FormatError(
                "size does not follow from the shape", where=name + suffix,
                got=(info.dtype, tuple(info.shape)), expected=(dtype, shape), code="SIZE",
            )  # fmt: skip
        nbytes += info.nbytes
    return Stored(name, descriptor, arrays, nbytes)
