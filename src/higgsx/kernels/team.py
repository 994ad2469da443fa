"""Threads of native calls that stand between operations of torch.

torch's workers wait for their next task by spinning, and so do ours: two pools on the same cores take time
from each other. Where torch's OpenMP library is libgomp, native calls run on torch's own workers. The
environment variable HIGGSX_POOL, read once, says `own` to keep them apart all the same: that is better where
other programs keep the cores busy, because OpenMP waits for every one of its workers.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from higgsx.errors import UsageError
from higgsx.kernels import heap, native

VARIABLE = "HIGGSX_POOL"
POOLS = ("torch", "own")


class _State:
    library: native.Native | None = None
    threads = 0
    fixed = False


def library() -> native.Native:
    """The library, with as many threads as torch has now; HIGGSX_THREADS decides over that. The first call
    also keeps freed memory (`heap`)."""
    found = _State.library
    if found is None:
        found = native.load()
        _State.threads, _State.fixed = found.threads, bool(os.environ.get(native.THREADS))
        wanted = os.environ.get(VARIABLE) or POOLS[0]
        if wanted not in POOLS:
            raise UsageError("no such pool", where=VARIABLE, got=wanted, expected=", ".join(POOLS))
        if wanted == "torch":
            borrow(found)
        heap.keep()
        _State.library = found
    if not _State.fixed and torch.get_num_threads() != _State.threads:
        _State.threads = torch.get_num_threads()
        found.check(found.hgx_set_threads(_State.threads))
    return found


def borrow(library: native.Native) -> bool:
    """Run on torch's workers from now on; False, and nothing changes, where they cannot be found."""
    openmp = _openmp()
    if openmp is None:
        return False
    names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
    try:
        places = [ctypes.cast(getattr(openmp, name), ctypes.c_void_p).value for name in names]
    except AttributeError:
        return False
    library.check(library.hgx_borrow_threads(*places))
    return True


def give_back(library: native.Native) -> None:
    """Run on the library's own workers again."""
    library.check(library.hgx_borrow_threads(None, None, None))


def _openmp() -> ctypes.CDLL | None:
    """libgomp, if torch has loaded it: another copy would have workers of its own."""
    if not hasattr(os, "RTLD_NOLOAD") or not torch.backends.openmp.is_available():
        return None
    home = Path(torch.__file__).parent
    bundled = [
        str(path) for folder in (home / "lib", home.parent / "torch.libs") for path in folder.glob("libgomp*")
    ]
    for name in (*bundled, "libgomp.so.1"):
        try:
            return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        except OSError:
            continue
    return None
