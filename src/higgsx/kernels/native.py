"""The native library, found, loaded and described for Python: no torch, nothing at import.

    HIGGSX_LIBRARY   path of the library to use instead of the one that was installed
    HIGGSX_TIER      instruction set to use, by name; the highest that runs otherwise
    HIGGSX_THREADS   threads; the cores that this process may use otherwise

The three are read once, when the library is first asked for.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from higgsx import io
from higgsx.codecs.grids import TABLES
from higgsx.errors import FormatError, HiggsxError, MemoryBudgetError, UsageError
from higgsx.kernels import structs
from higgsx.kernels.structs import Matrix, State, Step, Strides

if TYPE_CHECKING:
    from higgsx.descriptor import Descriptor
    from higgsx.transforms.hadamard import Hadamard

__all__ = [
    "Matrix", "Native", "State", "Step", "Strides", "address_of", "available", "load", "matrix_of",
    "multiplier_of",
]  # fmt: skip

LIBRARY, TIER, THREADS = "HIGGSX_LIBRARY", "HIGGSX_TIER", "HIGGSX_THREADS"
_NAME = {"darwin": "libhiggsx.dylib", "win32": "higgsx.dll"}.get(sys.platform, "libhiggsx.so")
_SCALES = {"u8": structs.SCALE_U8, "f16": structs.SCALE_F16}
_ZEROS = {
    "none": structs.ZERO_NONE,
    "u8": structs.ZERO_U8,
    "f16": structs.ZERO_F16,
    "min": structs.ZERO_MIN,
}
_DTYPES = {"F32": structs.F32, "F16": structs.F16, "BF16": structs.BF16}

Place = tuple[int, int]
"""Address and length in bytes of an array."""


class Native:
    """The loaded library. Functions of `csrc/higgsx.h` are attributes by their own names and return a status;
    `check` turns one into an error."""

    def __init__(self, path: Path, library: ctypes.CDLL) -> None:
        self.path = path
        self._library = library
        for name, (result, arguments) in structs.PROTOTYPES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def check(self, status: int, where: object = None) -> None:
        """Nothing where it is 0; else IndexError, or the error of this package that fits."""
        if status == structs.OK:
            return
        text = (self.hgx_message(status) or b"unknown status").decode()
        if status == structs.BAD_INDEX:
            raise IndexError(text if where is None else f"{where}: {text}")
        kinds: dict[int, tuple[type[HiggsxError], str]] = {
            structs.BAD_MATRIX: (FormatError, "CODEC"),
            structs.BAD_SIZE: (FormatError, "SIZE"),
            structs.NO_MEMORY: (MemoryBudgetError, "MEMORY"),
        }
        kind, code = kinds.get(status, (UsageError, "NATIVE"))
        raise kind(text, where=where, code=code)

    def tiers(self) -> list[str]:
        """Instruction sets that this machine can run, lowest first."""
        found = []
        index = 0
        while (name := self.hgx_tier_name(index)) is not None:
            if self.hgx_tier_runs(name):
                found.append(name.decode())
            index += 1
        return found

    @property
    def tier(self) -> str:
        name: bytes = self.hgx_tier()
        return name.decode()

    @property
    def threads(self) -> int:
        count: int = self.hgx_threads()
        return count


def available() -> str | None:
    """None, or why there are no native kernels here. UsageError for a variable that says nonsense."""
    found = _found()
    return found if isinstance(found, str) else None


def load() -> Native:
    """The library, the same every time. UsageError with the reason where there is none."""
    found = _found()
    if isinstance(found, str):
        raise UsageError("no native kernels", got=found, remedy="see `higgsx info`")
    return found


@lru_cache(maxsize=1)
def _found() -> Native | str:
    path = _path()
    if path is None:
        return f"{_NAME} is not installed with the package"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return f"{LIBRARY}: {error}" if os.environ.get(LIBRARY) else str(error)
    try:
        abi = library.hgx_abi()
        if abi != structs.ABI:
            return f"{path.name} has interface {abi}, this package needs {structs.ABI}: build it again"
        native = Native(path, library)
    except AttributeError as error:
        return f"{path.name} is no library of this package ({error})"
    _set_tier(native, os.environ.get(TIER))
    native.check(native.hgx_set_threads(wanted_threads()), THREADS)
    return native


def _path() -> Path | None:
    """Named by the variable; beside this file; or where an editable install put it."""
    named = os.environ.get(LIBRARY)
    if named:
        return Path(named).absolute()
    beside = Path(__file__).parent / "_native" / _NAME
    if beside.is_file():
        return beside
    # takes longer than the rest of this file together
    from importlib import metadata

    try:
        files = metadata.files("higgsx") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == _NAME:
            return Path(str(file.locate())).absolute()
    return None


def _set_tier(native: Native, name: str | None) -> None:
    running = native.tiers()
    if name and name not in running:
        raise UsageError("this tier cannot run here", where=TIER, got=name, expected=", ".join(running))
    native.check(native.hgx_set_tier(name.encode() if name else None), TIER)


def wanted_threads() -> int:
    """HIGGSX_THREADS; else the physical cores that this process may use, within its share of a container."""
    text = os.environ.get(THREADS)
    if text:
        if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= 4096 and len(text) < 6):
            raise UsageError("not a number of threads", where=THREADS, got=repr(text), expected="1 to 4096")
        return int(text)
    return max(1, min(_cores(), _share()))


def _cores() -> int:
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = {
        io.system_text(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed
    }
    return len(siblings) if "" not in siblings else len(allowed)


def _share() -> int:
    """Whole cores of the time that a container may use."""
    quota, _, period = io.system_text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return os.cpu_count() or 1
    return max(1, -(-int(quota) // int(period)))


def address_of(structure: ctypes.Structure | ctypes.Array[Any]) -> int:
    return ctypes.addressof(structure)


def matrix_of(descriptor: Descriptor, arrays: Mapping[str, Place], keep: object = None) -> Matrix:
    """One matrix as the library reads it.

    descriptor  of a matrix without experts; a convolution counts as one, but not if it is dense
    arrays      where the stored arrays are, by suffix
    keep        what must live as long as the result
    UsageError for what the library does not read.
    """
    shape = descriptor.matrix
    if shape.experts is not None:
        raise UsageError("a stack is read one matrix at a time", got=f"axes {descriptor.axes}")
    matrix = Matrix(outputs=shape.outputs, inputs=shape.inputs)
    codec: Any = descriptor.codec
    if descriptor.is_dense:
        _dense(matrix, descriptor, arrays[""])
        matrix.keep = keep
        return matrix
    matrix.kind = structs.PANELS
    matrix.bits, matrix.block, matrix.exponent = codec.code_bits, codec.block, codec.exponent
    matrix.scale = _SCALES[codec.scale] if codec.block else structs.SCALE_ROW
    matrix.zero = _ZEROS[codec.zero]
    if codec.id == "codebook":
        entries = TABLES[codec.table]
        matrix.table, matrix.centre = 1, 256
        matrix.entries[: len(entries)] = entries
    else:
        matrix.centre = codec.centre
    matrix.data, matrix.data_bytes = arrays["_hgs"]
    if "_hgsr" in arrays:
        matrix.rows, matrix.rows_bytes = arrays["_hgsr"]
    multiplier = None
    if descriptor.transform is not None:
        multiplier = multiplier_of(descriptor.transform, shape.inputs)
        matrix.width, matrix.segment = descriptor.transform.width, descriptor.transform.segment
        matrix.multiplier = multiplier.ctypes.data
    matrix.keep = (keep, multiplier)
    return matrix


def _dense(matrix: Matrix, descriptor: Descriptor, place: Place) -> None:
    dtype = descriptor.codec.dtype  # type: ignore[attr-defined]
    if dtype not in _DTYPES or "k" in descriptor.axes:
        raise UsageError("the library does not read this", got=f"dense {dtype}, axes {descriptor.axes}")
    matrix.kind, matrix.dtype = structs.DENSE, _DTYPES[dtype]
    matrix.transposed = int(descriptor.axes == "io")
    matrix.data, matrix.data_bytes = place


@lru_cache(maxsize=1024)
def multiplier_of(transform: Hadamard, inputs: int) -> np.ndarray:
    """`Hadamard.multiplier`, made once: many matrices read one activation."""
    found = transform.multiplier(inputs)
    found.flags.writeable = False
    return found
