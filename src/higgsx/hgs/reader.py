"""Open, read and verify a .hgs file. Opening reads the header and the tail, never an array."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from pathlib import Path
from types import TracebackType

import numpy as np
from blake3 import blake3

from higgsx.errors import FormatError, IntegrityError
from higgsx.hgs.digest import Progress, Tail, content_digest, hash_spans, tensor_digest
from higgsx.hgs.header import Header, locate, read_header, require_open
from higgsx.hgs.layout import DAMAGE, TAIL, ArrayInfo
from higgsx.hgs.manifest import ASSET, Manifest
from higgsx.hgs.strictjson import MAX_DEPTH
from higgsx.io import PathLike, file_size, open_for_reading, read_at
from higgsx.jsontext import parse_json


class HgsFile:
    """An opened file, valid in structure. Its content is proven only by `verify`.

    path, size        of the file, bytes
    manifest          what it says about itself
    arrays            every array by name, in file order, padding included
    content_digest    hexadecimal: same weights, assets, plan and recipe, same digest
    """

    def __init__(self, path: PathLike, fd: int, header: Header, tail: Tail | None) -> None:
        self.path = Path(path)
        self.size = file_size(fd)
        self.manifest: Manifest = header.manifest
        self.arrays: dict[str, ArrayInfo] = {array.name: array for array in header.arrays}
        self.content_digest = content_digest(header.manifest_text)
        self._fd, self._tail = fd, tail
        self._header_length = len(header.raw)
        self._map: mmap.mmap | None = None

    @classmethod
    def open(cls, path: PathLike) -> HgsFile:
        """FormatError (its `code` says which rule is broken), IntegrityError (CHECKSUM) where header or tail
        are damaged, StorageError where the file cannot be read."""
        fd = open_for_reading(path)
        try:
            header = read_header(fd, path)
            last = header.arrays[-1]
            tail = Tail.parse(read_at(fd, last.begin, last.nbytes, where=path))
            if blake3(header.raw).digest() != tail.header:
                raise IntegrityError("the header is damaged", where="header", code="CHECKSUM")
            return cls(path, fd, header, tail)
        except FormatError as error:
            os.close(fd)
            raise locate(error, path) from None
        except BaseException:
            os.close(fd)
            raise

    @property
    def assets(self) -> tuple[str, ...]:
        return tuple(self.manifest.assets)

    def mapped(self, name: str) -> np.ndarray:
        """The bytes of an array, uint8 `[nbytes]`, not read yet. Lives on after `close`. Whoever writes into
        it changes a copy of his own, never the file."""
        if self._map is None:
            self._map = _map_privately(require_open(self._fd, self.path), self.size)
        array = self._array(name)
        return np.frombuffer(self._map, np.uint8, array.nbytes, array.begin)

    def read(self, name: str) -> bytes:
        """The bytes of an array, a copy."""
        array = self._array(name)
        return read_at(require_open(self._fd, self.path), array.begin, array.nbytes, where=self.path)

    def asset(self, name: str) -> bytes:
        """A file that travels along; IntegrityError where it is damaged."""
        entry = self.manifest.assets.get(name)
        if entry is None:
            raise FormatError(
                "there is no such asset", where=self.path, got=name, expected=self.assets, code="ASSET"
            )
        data = self.read(f"{ASSET}{name}") if entry.length else b""
        if blake3(data).hexdigest() != entry.digest:
            raise IntegrityError("an asset is damaged", where=f"{self.path}: {name}", code="CHECKSUM")
        return data

    def damage(self) -> dict[str, object] | None:
        """What was measured when the file was made, None if nothing was; IntegrityError if it is damaged."""
        if self._tail is None:
            return None
        raw = self.read(DAMAGE)
        if blake3(raw).digest() != self._tail.damage:
            raise IntegrityError("the damage record is damaged", where=self.path, code="CHECKSUM")
        if not raw.strip(b" "):
            return None
        where = f"{self.path}: damage record"
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            raise FormatError("is no ASCII text", where=where, code="UTF8") from None
        record = parse_json(text.rstrip(" "), where=where, error=FormatError, depth=MAX_DEPTH)
        if not isinstance(record, dict):
            raise FormatError("not a JSON object", where=where, code="MANIFEST")
        return record

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Read every byte once and compare all digests. Returns what is damaged: names of tensors, assets and
        extensions, "padding", "header", "damage record", "tail"; empty for a sound file."""
        fd = require_open(self._fd, self.path)
        arrays = [array for array in self.arrays.values() if array.name != TAIL]
        digests = hash_spans(fd, [(array.begin, array.end) for array in arrays], self.path, progress)
        by_name = dict(zip(self.arrays, digests, strict=False))
        damaged = self._damaged_parts(by_name)
        raw = read_at(fd, 0, self._header_length, where=self.path)
        return (
            damaged
            if self._tail is None
            else damaged + self._damaged_frame(raw, digests, by_name[DAMAGE], damaged)
        )

    def _damaged_parts(self, digests: dict[str, bytes]) -> list[str]:
        manifest = self.manifest
        damaged = []
        for name, entry in manifest.tensors.items():
            parts = [(self.arrays[array], digests[array]) for array in entry.arrays]
            if tensor_digest(name, entry.descriptor, parts) != entry.digest:
                damaged.append((parts[0][0].begin, name))
        for name, asset in manifest.assets.items():
            found = digests[f"{ASSET}{name}"] if asset.length else blake3().digest()
            if found.hex() != asset.digest:
                damaged.append((self.arrays[f"{ASSET}{name}"].begin if asset.length else 0, name))
        for extension in manifest.extensions:
            parts = [(self.arrays[array], digests[array]) for array in extension.arrays]
            if tensor_digest(extension.name, None, parts) != extension.digest:
                damaged.append((self.size, extension.name))
        zeros = [blake3(bytes(length)).digest() for length in range(64)]
        if any(digests[array.name] != zeros[array.nbytes] for array in self.arrays.values() if array.is_pad):
            damaged.append((self.size, "padding"))
        return [name for _, name in sorted(damaged)]

    def _damaged_frame(self, raw: bytes, digests: list[bytes], damage: bytes, others: list[str]) -> list[str]:
        expected = Tail.of(raw, digests, damage)
        tail = self.arrays[TAIL]
        try:
            found = Tail.parse(read_at(self._fd, tail.begin, tail.nbytes, where=self.path))
        except IntegrityError:
            return ["tail"]
        damaged = []
        if found.header != expected.header:
            damaged.append("header")
        if found.damage != expected.damage:
            damaged.append("damage record")
        # with everything else sound, it is the digest itself
        if found.file != expected.file and not others and not damaged:
            damaged.append("tail")
        return damaged

    def _array(self, name: str) -> ArrayInfo:
        if name not in self.arrays:
            raise FormatError("there is no such array", where=self.path, got=name, code="NAME")
        return self.arrays[name]

    def close(self) -> None:
        """Arrays handed out by `mapped` stay valid."""
        fd, self._fd, self._map = self._fd, -1, None
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> HgsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


_NORESERVE = 0x4000 if sys.platform == "linux" else 0
"""Of Linux on every processor that torch runs on; Python has a name for it from 3.12 on."""


def _map_privately(fd: int, size: int) -> mmap.mmap:
    """Copy on write, and no memory set aside for copies: a file may be larger than the RAM."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", _NORESERVE)
    mapped = mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # what is read from the disk comes in large pages: weights are then read up to 8 % faster
        with contextlib.suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped
