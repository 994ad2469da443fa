"""Memory that operations of torch free stays with the process.

torch asks the C library for every result anew. glibc gives large blocks back to the system as soon as they
are free, and each of their pages is then made again and cleared: a fifth of the time of an encoder whose
products are fast. So blocks up to 32 MB come from the heap, and up to `KEPT` bytes of it are not given back.
Who has set this through glibc's own variables keeps what was set; HIGGSX_HEAP, read once, says `system` to
leave everything as it is.
"""

from __future__ import annotations

import ctypes
import os
import sys

from higgsx.errors import UsageError

VARIABLE = "HIGGSX_HEAP"
HEAPS = ("keep", "system")
KEPT = 256 << 20
_LARGEST = 32 << 20
"""What glibc takes for the next at most."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Their numbers in malloc.h."""
_THEIRS = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep() -> bool:
    """Keep freed memory from now on. False, and nothing changes, where that is not wanted or there is no
    glibc."""
    wanted = os.environ.get(VARIABLE) or HEAPS[0]
    if wanted not in HEAPS:
        raise UsageError("no such heap", where=VARIABLE, got=wanted, expected=", ".join(HEAPS))
    if wanted == "system" or not sys.platform.startswith("linux") or any(os.environ.get(x) for x in _THEIRS):
        return False
    try:
        change = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(change(_MMAP_THRESHOLD, _LARGEST)) and bool(change(_TRIM_THRESHOLD, KEPT))
