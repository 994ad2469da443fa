"""The header of a safetensors file, checked before anything is believed."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from higgsx import io
from higgsx.codecs.base import DTYPE_BYTES, torch_dtype
from higgsx.errors import SourceError
from higgsx.jsontext import parse_json

MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorInfo:
    """dtype is a safetensors name; begin and end are absolute offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch_dtype(self.dtype)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Tensors of one file by name, in the order of their bytes. SourceError for anything inconsistent."""
    fd = io.open_for_reading(file)
    try:
        size = os.fstat(fd).st_size
        if size < 8:
            raise SourceError("file is too short", where=file, got=f"{size} bytes")
        (length,) = struct.unpack("<Q", io.read_at(fd, 0, 8))
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise SourceError("not a complete safetensors file", where=file, got=f"header of {length} bytes")
        header = _parse(io.read_at(fd, 8, length), file)
    finally:
        os.close(fd)
    if not isinstance(header, dict):
        raise SourceError("not a safetensors header", where=file)
    header.pop("__metadata__", None)
    start = 8 + length
    found = [_tensor(file, name, entry, start, size) for name, entry in header.items()]
    return {info.name: info for info in sorted(found, key=lambda info: info.begin)}


def _parse(raw: bytes, file: Path) -> object:
    try:
        return parse_json(raw.decode(), where=str(file))
    except UnicodeDecodeError:
        raise SourceError("not a safetensors header", where=file, got="no UTF-8 text") from None


def _tensor(file: Path, name: str, entry: object, start: int, size: int) -> TensorInfo:
    where = f"{file.name}: {name}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise SourceError("not a tensor entry", where=where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in DTYPE_BYTES:
        raise SourceError("dtype is not supported", where=where, got=dtype, expected=", ".join(DTYPE_BYTES))
    if not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise SourceError("not a tensor entry", where=where)
    begin, end = start + offsets[0], start + offsets[1]
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype] or begin > end:
        raise SourceError("size does not fit the shape", where=where, got=end - begin, expected=shape)
    if end > size:
        raise SourceError("file is truncated", where=where, got=f"{size} bytes", expected=f"at least {end}")
    return TensorInfo(name, dtype, tuple(shape), file, begin, end)


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
