"""Write a .hgs file, array by array, so that a crash at any moment leaves no file that looks finished.

Everything has its place before the first byte is written. The header comes last: until then the file begins
with zeros, which no reader accepts, and stands under a hidden name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from blake3 import blake3

from higgsx.errors import FormatError, IntegrityError, StorageError
from higgsx.hgs.digest import RECORD_BYTES, Tail, hasher, tensor_digest
from higgsx.hgs.draft import Draft, lay_out
from higgsx.hgs.header import Header, build_header, pad_header, parse_header
from higgsx.hgs.layout import DAMAGE, DAMAGE_BYTES, TAIL, ArrayInfo
from higgsx.hgs.manifest import ASSET, Manifest
from higgsx.hgs.reader import HgsFile
from higgsx.hgs.strictjson import canonical, check_free_json
from higgsx.io import Bytes, PartialFile, PathLike, open_for_reading, same_file


class Writer:
    """A file in the making. As a context manager it removes what it wrote, unless it was finished.

    path     where the file will stand
    force    replace a file that stands there
    reserve  bytes of header beyond what the draft's descriptors need
    inputs   files that are read meanwhile: the output may be none of them
    """

    def __init__(
        self,
        path: PathLike,
        draft: Draft,
        *,
        force: bool = False,
        reserve: int = 0,
        inputs: Iterable[PathLike] = (),
    ) -> None:
        for source in inputs:
            if same_file(path, source):
                raise StorageError(
                    "the output is one of the inputs", where=path, remedy="choose another name", code="SAME"
                )
        self.draft = draft
        self._layout = lay_out(draft, reserve)
        self.size = self._layout.size
        self._arrays = {array.name: array for array in self._layout.arrays}
        self._states: dict[str, blake3] = {}
        self._written = dict.fromkeys(self._arrays, 0)
        self._drafted = {name: descriptor for name, descriptor, _ in draft.tensors}
        self._descriptors: dict[str, dict[str, object]] = {}
        self._room = self._layout.room
        self._partial = PartialFile(path, size=self.size, force=force)
        try:
            for name, data in draft.assets.items():
                if data:
                    self.append(f"{ASSET}{name}", data)
        except BaseException:
            self.abort()
            raise

    @property
    def path(self) -> Path:
        """Where the file stands until it is finished."""
        return self._partial.path

    def append(self, array_name: str, data: Bytes | np.ndarray) -> None:
        """The next bytes of an array, in order; C-contiguous where it has dimensions."""
        array = self._arrays.get(array_name)
        if array is None or array.is_pad or array_name in (DAMAGE, TAIL):
            raise FormatError("there is no such array to write", got=array_name, code="NAME")
        view = memoryview(data.data if isinstance(data, np.ndarray) else data)
        if view.nbytes == 0:
            return
        view = view.cast("B")
        done = self._written[array_name]
        if done + len(view) > array.nbytes:
            raise FormatError(
                "more bytes than the array has",
                where=array_name,
                got=done + len(view),
                expected=array.nbytes,
                code="SIZE",
            )
        self._partial.write_at(self._layout.begin + array.begin + done, view)
        self._states.setdefault(array_name, hasher(array.nbytes)).update(view)
        self._written[array_name] = done + len(view)

    def set_descriptor(self, tensor_name: str, descriptor: Mapping[str, object]) -> None:
        """The final descriptor, once the data has been seen. FormatError (LIMIT) without room for it."""
        if tensor_name not in self._drafted:
            raise FormatError("there is no such tensor", got=tensor_name, code="NAME")
        final = dict(descriptor)
        check_free_json(final, tensor_name)
        before = self._descriptors.get(tensor_name, self._drafted[tensor_name])
        room = self._room - _length(final) + _length(before)
        if room < 0:
            raise FormatError(
                "descriptor outgrew the room in the header", where=tensor_name, got=-room, code="LIMIT"
            )
        self._room = room
        self._descriptors[tensor_name] = final

    def open_partial(self) -> HgsFile:
        """What has been written so far, as a reader will see it. Its tensors' digests are those of now."""
        header = self._header(self._digests())
        return HgsFile(self.path, open_for_reading(self.path), header, None)

    def finish(self, damage: Mapping[str, object] | None = None) -> str:
        """Complete, verify and put the file in place; returns its content digest.

        damage: what was measured, JSON of at most 32 KiB. On any error the partial file is removed.
        """
        try:
            digest = self._complete(damage)
            self._partial.commit()
        except BaseException:
            self.abort()
            raise
        return digest

    def reject(self, damage: Mapping[str, object] | None, reason: str) -> Path:
        """Complete the file but put it aside as `NAME.rejected.hgs`, the reason in its damage record."""
        try:
            self._complete({**(damage or {}), "rejected": reason})
            return self._partial.reject()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove the partial file. Nothing happens after `finish`."""
        self._partial.discard()

    def _complete(self, damage: Mapping[str, object] | None) -> str:
        record = _damage_bytes(damage)
        self._require_complete()
        digests = self._digests()
        header = self._header(digests)
        begin = self._layout.begin
        digests[DAMAGE] = blake3(record).digest()
        before_tail = [digests[array.name] for array in self._layout.arrays if array.name != TAIL]
        tail = Tail.of(header.raw, before_tail, digests[DAMAGE])
        self._partial.write_at(begin + self._arrays[DAMAGE].begin, record)
        self._partial.write_at(begin + self._arrays[TAIL].end - RECORD_BYTES, tail.record())
        self._partial.sync()
        self._partial.write_at(0, header.raw)
        self._partial.sync()
        with HgsFile.open(self.path) as written:
            damaged = written.verify()
            if damaged:
                raise IntegrityError(
                    "what was written cannot be read back", where=self._partial.target, got=damaged
                )
            return written.content_digest

    def _require_complete(self) -> None:
        for array in self._arrays.values():
            ours = array.is_pad or array.name in (DAMAGE, TAIL)
            if not ours and self._written[array.name] != array.nbytes:
                raise FormatError(
                    "array is not complete",
                    where=array.name,
                    got=self._written[array.name],
                    expected=array.nbytes,
                    code="SIZE",
                )

    def _digests(self) -> dict[str, bytes]:
        """Of every array before the damage record, as far as it has been written."""
        return {
            name: blake3(bytes(array.nbytes)).digest() if array.is_pad else self._state(name).digest()
            for name, array in self._arrays.items()
            if name not in (DAMAGE, TAIL)
        }

    def _state(self, name: str) -> blake3:
        return self._states.get(name) or blake3()

    def _header(self, digests: Mapping[str, bytes]) -> Header:
        text = self._manifest(digests).to_text()
        raw = pad_header(build_header(self._layout.arrays, text), self._layout.header_length)
        return parse_header(raw, self.size)

    def _manifest(self, digests: Mapping[str, bytes]) -> Manifest:
        by_tensor = {}
        for name, descriptor, arrays in self.draft.tensors:
            parts: list[tuple[ArrayInfo, bytes]] = [
                (self._arrays[array], digests[array]) for array, _, _ in arrays
            ]
            by_tensor[name] = tensor_digest(name, self._descriptors.get(name, dict(descriptor)), parts)
        return self.draft.manifest(by_tensor, self._descriptors)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


def _length(descriptor: Mapping[str, object]) -> int:
    """Bytes of a descriptor in the header, where the manifest is JSON within JSON."""
    return len(canonical(canonical(descriptor)))


def _damage_bytes(damage: Mapping[str, object] | None) -> bytes:
    """JSON text padded with spaces; FormatError (LIMIT) beyond 32 KiB."""
    text = ""
    if damage is not None:
        try:
            text = json.dumps(damage, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise FormatError(
                "damage record cannot be written as JSON", got=str(error)[:100], code="JSON"
            ) from None
    if len(text) > DAMAGE_BYTES:
        raise FormatError(
            "damage record is too long", got=len(text), expected=f"at most {DAMAGE_BYTES}", code="LIMIT"
        )
    return text.encode().ljust(DAMAGE_BYTES)
