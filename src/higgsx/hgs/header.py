"""The first bytes of a .hgs file: length, JSON, spaces. docs/format.md section 2 is normative."""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from higgsx.errors import FormatError, StorageError
from higgsx.hgs.layout import ALIGN, MAX_HEADER, ArrayInfo, entries_of, parse_entries
from higgsx.hgs.manifest import Manifest
from higgsx.hgs.strictjson import canonical, parse
from higgsx.io import file_size, read_at

_METADATA = "__metadata__"
_BIG = (1 << 64) - 1

_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "this is a GGUF file"),
    (b"PK\x03\x04", "this is a ZIP archive or a PyTorch checkpoint"),
    (b"\x80", "this may be a pickle, which is never read"),
    (b"version ", "this is a Git LFS pointer: fetch the real file with `git lfs pull`"),
    (b"<!DOCTYPE", "this is a web page, not the file behind it"),
    (b"<html", "this is a web page, not the file behind it"),
)


@dataclass(frozen=True)
class Header:
    """raw: the bytes from the beginning of the file to its first array; arrays in file order."""

    raw: bytes
    manifest: Manifest
    manifest_text: str
    arrays: list[ArrayInfo]


def build_header(arrays: Iterable[ArrayInfo], manifest_text: str) -> str:
    """JSON of a header; the offsets of `arrays` count from the first of them."""
    return canonical({_METADATA: {"format": "pt", "hgs": manifest_text}, **entries_of(arrays)})


def pad_header(text: str, length: int) -> bytes:
    """The header's bytes: its length, the JSON, spaces up to that length; FormatError (LIMIT) beyond it."""
    if len(text) > length:
        raise FormatError(
            "header outgrew the room reserved for it", got=len(text), expected=length, code="LIMIT"
        )
    return struct.pack("<Q", length) + text.encode() + b" " * (length - len(text))


def read_header(fd: int, where: object) -> Header:
    """Read and check everything that the header says; reads no array."""
    size = file_size(fd)
    if size < 8:
        raise FormatError("file is cut short", got=f"{size} bytes", expected="at least 8", code="TRUNC")
    (length,) = struct.unpack("<Q", read_at(fd, 0, 8, where=where))
    if not 2 <= length <= MAX_HEADER:
        start = read_at(fd, 0, min(size, 16), where=where)
        raise FormatError(
            "not a .hgs file: length of the header",
            got=length,
            expected=f"2 to {MAX_HEADER}",
            remedy=_hint(start),
            code="HDR_SIZE",
        )
    if length > size - 8:
        raise FormatError(
            "file is cut short", got=f"{size} bytes", expected=f"more than {8 + length}", code="TRUNC"
        )
    return parse_header(read_at(fd, 0, 8 + length, where=where), size)


def parse_header(raw: bytes, size: int) -> Header:
    """raw: the length field and as many bytes as it says; size: of the whole file."""
    # a large header is many small objects that all stay: looking for garbage among them costs a third
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _parse_header(raw, size)
    finally:
        if collecting:
            gc.enable()


def _parse_header(raw: bytes, size: int) -> Header:
    if raw[8:9] != b"{":
        raise FormatError("header does not begin with {", got=repr(raw[8:16]), code="HDR_START")
    try:
        text = raw[8:].decode()
    except UnicodeDecodeError as problem:
        raise FormatError("header is no UTF-8 text", got=f"byte {8 + problem.start}", code="UTF8") from None
    data = parse(text.rstrip(" "), "header", largest=_BIG)
    if not isinstance(data, dict):
        raise FormatError("header is no JSON object", code="JSON")
    manifest_text = _manifest_text(data.pop(_METADATA, None))
    if len(raw) % ALIGN:
        raise FormatError("first array is not aligned to 64 bytes", got=len(raw), code="ALIGN")
    arrays = parse_entries(data, len(raw), size)
    manifest = Manifest.from_text(manifest_text)
    manifest.check(arrays)
    return Header(raw, manifest, manifest_text, arrays)


def _manifest_text(metadata: object) -> str:
    if not isinstance(metadata, dict) or "hgs" not in metadata:
        remedy = "it may be an ordinary safetensors file: compress its folder first"
        raise FormatError("not a .hgs file: it has no manifest", remedy=remedy, code="MANIFEST")
    text = metadata["hgs"]
    if set(metadata) != {"format", "hgs"} or metadata["format"] != "pt" or not isinstance(text, str):
        raise FormatError(
            "wrong metadata", got=repr(metadata)[:80], expected="format and hgs", code="MANIFEST"
        )
    return text


def _hint(start: bytes) -> str | None:
    if not any(start[:8]):
        return "it was never finished"
    for magic, hint in _STRANGERS:
        if start.startswith(magic):
            return hint
    if 2 <= struct.unpack(">Q", start[:8])[0] <= MAX_HEADER:
        return "its length is big-endian"
    return None


def locate(error: FormatError, path: object) -> FormatError:
    """The same error, saying which file."""
    where = path if error.where is None else f"{path}: {error.where}"
    return type(error)(
        error.what, where=where, got=error.got, expected=error.expected, remedy=error.remedy, code=error.code
    )


def require_open(fd: int, where: object) -> int:
    """StorageError after `close`."""
    if fd < 0:
        raise StorageError("the file is closed", where=where)
    return fd
