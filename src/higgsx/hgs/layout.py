"""Where arrays lie: names, sizes, alignment. docs/format.md section 2 is normative."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from higgsx.errors import FormatError
from higgsx.units import round_up

ALIGN = 64
MAX_HEADER = 1 << 26
"""Bytes of the longest header. Below 0x04034B50, so that no file begins like a ZIP archive."""
MAX_ARRAYS = 1 << 18
MAX_RANK = 8
MAX_BYTES = 1 << 48
"""Of one array."""
PREFIX = "hgs."
"""Begins the name of every array that is no tensor's."""
PAD = "hgs.pad."
DAMAGE = "hgs.damage"
DAMAGE_BYTES = 1 << 15
TAIL = "hgs.tail"
TAIL_BYTES = 65_600
"""More than a ZIP reader searches at the end of a file (65,557)."""

DTYPE_BYTES: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,255}")
_ENTRY = {"dtype", "shape", "data_offsets"}

Shape = tuple[int, ...]
ArraySpec = tuple[str, str, Shape]
"""Name, dtype (as safetensors calls it), shape."""


class ArrayInfo(NamedTuple):
    """One array; `begin` and `end` count bytes of the file."""

    name: str
    dtype: str
    shape: Shape
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def is_pad(self) -> bool:
        return self.name.startswith(PAD)


def check_name(name: object, what: str = "array") -> str:
    """The name itself; FormatError (NAME) where it is not made of 1 to 255 letters, digits, `_`, `.`, `-`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
        raise FormatError(
            f"invalid name of {what}", got=repr(name)[:80], expected="letters, digits, _ . -", code="NAME"
        )
    return name


def array_nbytes(name: str, dtype: object, shape: object) -> int:
    """Bytes of an array, in whole numbers that cannot wrap; FormatError DTYPE, SHAPE, LIMIT or OVERFLOW."""
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise FormatError(
            "unknown dtype", where=name, got=repr(dtype)[:40], expected=sorted(DTYPE_BYTES), code="DTYPE"
        )
    if not isinstance(shape, (list, tuple)):
        raise FormatError("invalid shape", where=name, got=repr(shape)[:80], code="SHAPE")
    if len(shape) > MAX_RANK:
        raise FormatError(
            "too many dimensions", where=name, got=len(shape), expected=f"at most {MAX_RANK}", code="LIMIT"
        )
    nbytes = DTYPE_BYTES[dtype]
    for size in shape:
        if type(size) is not int or size < 1:
            raise FormatError(
                "invalid shape", where=name, got=repr(shape)[:80], expected="sizes of 1 or more", code="SHAPE"
            )
        nbytes *= size
        if nbytes > MAX_BYTES:
            raise FormatError(
                "array is too large",
                where=name,
                got=repr(shape)[:80],
                expected="at most 2^48 bytes",
                code="OVERFLOW",
            )
    return nbytes


def place(specs: Iterable[ArraySpec]) -> list[ArrayInfo]:
    """Lay arrays out one after another, padding between them where needed. Offsets count from the first."""
    placed: list[ArrayInfo] = []
    cursor = pads = 0
    for name, dtype, shape in specs:
        gap = -cursor % ALIGN
        if gap:
            placed.append(ArrayInfo(f"{PAD}{pads}", "U8", (gap,), cursor, cursor + gap))
            cursor, pads = cursor + gap, pads + 1
        nbytes = array_nbytes(name, dtype, shape)
        placed.append(ArrayInfo(name, dtype, tuple(shape), cursor, cursor + nbytes))
        cursor += nbytes
    return placed


def header_bytes(text_length: int) -> int:
    """Length of the header as the file states it: spaces fill it up so that the arrays begin aligned."""
    return round_up(8 + text_length, ALIGN) - 8


def entries_of(arrays: Iterable[ArrayInfo]) -> dict[str, object]:
    """The header's entries of arrays whose offsets count from the first."""
    return {
        array.name: {
            "dtype": array.dtype,
            "shape": list(array.shape),
            "data_offsets": [array.begin, array.end],
        }
        for array in arrays
    }


def parse_entries(entries: Mapping[str, object], data_begin: int, file_size: int) -> list[ArrayInfo]:
    """The arrays in file order, proven to cover the file from `data_begin` to its end, each byte once.

    FormatError: LIMIT NAME DUP JSON DTYPE SHAPE OVERFLOW OFFSET SIZE ALIGN TRUNC TRAILING MANIFEST.
    """
    if len(entries) > MAX_ARRAYS:
        raise FormatError("too many arrays", got=len(entries), expected=f"at most {MAX_ARRAYS}", code="LIMIT")
    arrays = [_parse_entry(name, entry, data_begin) for name, entry in entries.items()]
    if len({name.lower() for name in entries}) != len(entries):
        raise FormatError("names differ only in upper and lower case", code="DUP")
    arrays.sort(key=lambda array: array.begin)
    _check_cover(arrays, data_begin)
    end = arrays[-1].end if arrays else data_begin
    if end > file_size:
        raise FormatError("file is cut short", got=f"{file_size} bytes", expected=end, code="TRUNC")
    if end < file_size:
        raise FormatError(
            "bytes after the last array", got=f"{file_size} bytes", expected=end, code="TRAILING"
        )
    return arrays


def _parse_entry(name: str, entry: object, data_begin: int) -> ArrayInfo:
    check_name(name)
    if not isinstance(entry, dict) or set(entry) != _ENTRY:
        raise FormatError(
            "not an array entry", where=name, got=repr(entry)[:80], expected=sorted(_ENTRY), code="JSON"
        )
    shape, offsets = entry["shape"], entry["data_offsets"]
    nbytes = array_nbytes(name, entry["dtype"], shape)
    valid = isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)
    if not valid or not 0 <= offsets[0] <= offsets[1] < 1 << 53:
        raise FormatError("invalid offsets", where=name, got=repr(offsets)[:80], code="OFFSET")
    if offsets[1] - offsets[0] != nbytes:
        raise FormatError(
            "size does not match the shape",
            where=name,
            got=offsets[1] - offsets[0],
            expected=nbytes,
            code="SIZE",
        )
    return ArrayInfo(name, entry["dtype"], tuple(shape), data_begin + offsets[0], data_begin + offsets[1])


def _check_cover(arrays: list[ArrayInfo], data_begin: int) -> None:
    """No gap, no overlap, padding exactly where alignment needs it."""
    cursor, pads = data_begin, 0
    for array in arrays:
        if array.begin != cursor:
            raise FormatError(
                "gap or overlap before the array",
                where=array.name,
                got=array.begin,
                expected=cursor,
                code="OFFSET",
            )
        gap = -cursor % ALIGN
        if gap:
            if array.name != f"{PAD}{pads}" or array.dtype != "U8" or array.shape != (gap,):
                expected = f"{gap} bytes of {PAD}{pads}"
                raise FormatError(
                    "array is not aligned to 64 bytes", where=array.name, expected=expected, code="ALIGN"
                )
            pads += 1
        elif array.is_pad:
            raise FormatError("padding where none is needed", where=array.name, code="ALIGN")
        cursor = array.end
