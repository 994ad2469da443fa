"""Digests of a .hgs file (all BLAKE3, 32 bytes) and its tail. docs/format.md section 5 is normative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from blake3 import blake3

from higgsx.errors import FormatError, IntegrityError
from higgsx.hgs.layout import TAIL_BYTES, ArrayInfo
from higgsx.hgs.strictjson import canonical
from higgsx.io import read_into

MAGIC = b"HIGGS-X hgs tail"
DIGEST_BYTES = 32
RECORD_BYTES = len(MAGIC) + 3 * DIGEST_BYTES
"""What stands at the end of the tail, after its zeros."""

_CHUNK = 1 << 23
_MANY = 1 << 20
"""From this many bytes on several threads hash one array."""

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""


def hasher(nbytes: int) -> blake3:
    """A BLAKE3 state for an array of that length."""
    return blake3(max_threads=blake3.AUTO) if nbytes >= _MANY else blake3()


def tensor_digest(name: str, descriptor: object, arrays: Iterable[tuple[ArrayInfo, bytes]]) -> str:
    """Binds the bytes of a tensor to its name, meaning, dtypes and shapes. Hexadecimal."""
    listed = [[array.name, array.dtype, list(array.shape), digest.hex()] for array, digest in arrays]
    return blake3(canonical({"name": name, "descriptor": descriptor, "arrays": listed}).encode()).hexdigest()


def content_digest(manifest: str) -> str:
    """What the file holds, whatever was measured about it. Hexadecimal."""
    return blake3(manifest.encode()).hexdigest()


class Tail(NamedTuple):
    """Digests at the end of the file: of the header, of the damage record, of everything."""

    header: bytes
    damage: bytes
    file: bytes

    @classmethod
    def of(cls, header: bytes, digests: Sequence[bytes], damage: bytes) -> Tail:
        """header with its length field; digests of all arrays before the tail, in file order."""
        everything = blake3(header)
        everything.update(b"".join(digests))
        return cls(blake3(header).digest(), damage, everything.digest())

    def record(self) -> bytes:
        return MAGIC + self.header + self.damage + self.file

    @classmethod
    def parse(cls, raw: bytes) -> Tail:
        """IntegrityError (CHECKSUM) unless `raw` is zeros, magic and three digests."""
        if len(raw) != TAIL_BYTES or raw[-RECORD_BYTES : -3 * DIGEST_BYTES] != MAGIC:
            raise IntegrityError("the end of the file is damaged", where="tail", code="CHECKSUM")
        if raw.count(0, 0, -RECORD_BYTES) != TAIL_BYTES - RECORD_BYTES:
            raise IntegrityError(
                "the fill before the end of the file is not zero", where="tail", code="CHECKSUM"
            )
        parts = raw[-3 * DIGEST_BYTES :]
        return cls(parts[:32], parts[32:64], parts[64:])


def hash_spans(
    fd: int, spans: Sequence[tuple[int, int]], where: object, progress: Progress | None = None
) -> list[bytes]:
    """BLAKE3 of each `(begin, end)` of a file, every byte read once; spans ascend and do not overlap."""
    if not spans:
        return []
    last = spans[-1][1]
    buffer = memoryview(bytearray(min(_CHUNK, last - spans[0][0])))
    window_begin = window_end = 0
    digests = []
    for begin, end in spans:
        state, position = hasher(end - begin), begin
        while position < end:
            if not window_begin <= position < window_end:
                window_begin, window_end = position, min(position + len(buffer), last)
                read_into(fd, window_begin, buffer[: window_end - window_begin], where=where)
                if progress is not None:
                    progress(window_begin - spans[0][0], last - spans[0][0])
            upto = min(end, window_end)
            state.update(buffer[position - window_begin : upto - window_begin])
            position = upto
        digests.append(state.digest())
    if progress is not None:
        progress(last - spans[0][0], last - spans[0][0])
    return digests


def parse_hex(value: object, where: str) -> str:
    """A digest as the manifest writes it; FormatError (MANIFEST) unless it is 64 lower-case hex digits."""
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return value
    raise FormatError(
        "invalid digest", where=where, got=repr(value)[:80], expected="64 hexadecimal digits", code="MANIFEST"
    )
