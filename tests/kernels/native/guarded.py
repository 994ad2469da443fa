"""Arrays between pages that nobody may touch, and a child process for what might die of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable

import numpy as np

PAGE = mmap.PAGESIZE
_NONE, _READ, _READ_WRITE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Fenced:
    """Copies of arrays, each on pages of its own with a forbidden page before and after.

    at="end": the array's last byte is the last of its page; at="start": its first byte the first.
    Pages are never given back while the object lives; `read_only` forbids writing to the arrays.
    """

    def __init__(self, at: str) -> None:
        self.at = at
        self._maps: list[tuple[mmap.mmap, int]] = []

    def place(self, array: np.ndarray, read_only: bool = False) -> np.ndarray:
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        room = max(1, -(-raw.size // PAGE)) * PAGE
        area = mmap.mmap(-1, room + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(area))
        begin = PAGE + (room - raw.size if self.at == "end" else 0)
        inside = np.frombuffer(area, np.uint8, raw.size, begin)
        inside[...] = raw
        # what shares the page with the array is poison, not zero
        around = np.frombuffer(area, np.uint8, room, PAGE)
        around[: begin - PAGE] = 0xFF
        around[begin - PAGE + raw.size :] = 0xFF
        self._protect(base, PAGE, _NONE)
        self._protect(base + PAGE + room, PAGE, _NONE)
        if read_only:
            self._protect(base + PAGE, room, _READ)
        self._maps.append((area, base))
        return inside.view(array.dtype).reshape(array.shape)

    def fixed(self, array: np.ndarray) -> np.ndarray:
        """The same where nobody may write."""
        return self.place(array, read_only=True)

    def _protect(self, address: int, size: int, access: int) -> None:
        if _libc.mprotect(address, size, access):
            raise OSError(ctypes.get_errno(), "mprotect")


def in_child(body: Callable[[Callable[[str], None]], None], seconds: int = 120) -> None:
    """Run `body(say)` in a fork of this process; what it says last is named if the child dies.

    The child never returns into pytest. AssertionError where it fails, dies or does not end.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forks in processes with threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            signal.alarm(seconds)
            body(lambda text: os.write(writing, b"\0" + text.encode()) and None)
            status = 0
        except BaseException:
            os.write(writing, b"\0" + traceback.format_exc().encode())
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writing)
    said = b""
    while part := os.read(reading, 1 << 16):
        said = said[-(1 << 16) :] + part
    os.close(reading)
    _, result = os.waitpid(child, 0)
    last = said.rpartition(b"\0")[2].decode()
    if os.WIFSIGNALED(result):
        raise AssertionError(f"died of signal {os.WTERMSIG(result)} at: {last}")
    assert os.WEXITSTATUS(result) == 0, last
