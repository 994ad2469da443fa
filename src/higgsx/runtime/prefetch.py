"""Reading the mapped file ahead, in its order, while the first layers already compute.

The tensors stand in the file in the order in which they are used, so a reader that goes through it once is
ahead of the computation where the disk is fast enough, and nobody waits for single pages where it is not.
Nothing is copied: the pages that the system read are the weights.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading

from higgsx.archive import Archive
from higgsx.runtime.memory import free_memory

_WILLNEED = getattr(mmap, "MADV_WILLNEED", None)
_POPULATE_READ = 22 if sys.platform == "linux" else None
"""Of Linux 5.14 and later: reads the pages and enters them into the tables of this process."""
_STEP = 64 << 20
"""Bytes of one call: few calls, because each needs Python's lock for a moment, which others may hold long."""


class Prefetch(threading.Thread):
    """A background thread; it ends at the end of the tensors or when told to."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(name="higgsx-prefetch", daemon=True)
        names = [array for stored in archive.tensors.values() for array in stored.arrays.values()]
        arrays = sorted((archive.file.arrays[name] for name in names), key=lambda array: array.begin)
        # the arrays of a file lie in one mapping, which lives as long as any of them
        self._first = archive.file.mapped(arrays[0].name) if arrays else None
        self._nbytes = arrays[-1].end - arrays[0].begin if arrays else 0
        self._stop = threading.Event()

    def run(self) -> None:
        if self._first is None or _WILLNEED is None or self._nbytes > free_memory():
            return
        try:
            advise = ctypes.CDLL(None).madvise
        except (OSError, AttributeError):
            return
        advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        begin = self._first.ctypes.data // mmap.PAGESIZE * mmap.PAGESIZE
        end = self._first.ctypes.data + self._nbytes
        advise(begin, end - begin, _WILLNEED)
        for at in range(begin, end, _STEP):
            # an older kernel knows only the first kind of advice
            if self._stop.is_set() or not _POPULATE_READ:
                return
            if advise(at, min(_STEP, end - at), _POPULATE_READ) != 0:
                return

    def stop(self) -> None:
        self._stop.set()
