"""The tensors of a file as the native library reads them: addresses in the mapped file, nothing is copied.

Norm weights and biases alone become float32 arrays of their own, where the file holds them in 16 bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from higgsx.archive import Archive
from higgsx.errors import HiggsxError, ModelError
from higgsx.kernels import structs
from higgsx.kernels.native import Matrix, matrix_of

PANEL = 16
"""Outputs of a panel (docs/format.md 4.2)."""
_FLOATS = ("F32", "F16", "BF16")
_IGNORED = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq")
"""Ends of names of constants that older checkpoints hold besides their weights."""


class Tensors:
    """Tensors by name. `base` is what names begin with, of which a checkpoint may leave out leading words.

    Everything handed out stays valid as long as this object.
    """

    def __init__(self, archive: Archive, base: str, probe: str) -> None:
        self._archive = archive
        self._base = base
        self._stored = {name: name for name in archive.tensors}
        for names in archive.ties:
            first = next(name for name in names if name in archive.tensors)
            self._stored |= dict.fromkeys(names, first)
        self._short = self._shortened(base, probe)
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, np.ndarray] = {}
        self._used: set[str] = set()

    def _shortened(self, base: str, probe: str) -> str:
        """What stands for `base` in this file."""
        words = base.split(".")
        for skip in range(len(words)):
            short = ".".join(words[skip:])
            if short + probe.removeprefix(base) in self._stored:
                return short
        raise _refuse("tensor is missing", probe)

    def stored(self, name: str) -> str | None:
        """The name under which the file holds a tensor, None where it does not."""
        if name.startswith(self._base):
            name = self._short + name.removeprefix(self._base)
        return self._stored.get(name)

    def matrix(self, name: str, outputs: int, inputs: int, transposed: bool = False) -> Matrix:
        """transposed: the checkpoint holds [inputs, outputs].

        ModelError (FAMILY) where it is missing, of another shape, or nothing that the library reads.
        """
        stored = self._present(name)
        if stored not in self._matrices:
            self._matrices[stored] = self._mapped(stored, "io" if transposed else "oi")
        found = self._matrices[stored]
        if (found.outputs, found.inputs) != (outputs, inputs):
            raise _refuse("has another shape", stored, (found.outputs, found.inputs), (outputs, inputs))
        return found

    def rows(self, whole: Matrix, first: int, count: int) -> Matrix:
        """Outputs first … first + count - 1 of a matrix."""
        if whole.kind == structs.DENSE:
            unit, last = 1, whole.outputs
            fits = not whole.transposed
        else:
            unit, last = PANEL, -(-whole.outputs // PANEL) * PANEL
            fits = first % unit == 0 and count % unit == 0
        if not fits:
            raise _refuse("heads do not begin with a panel", "attention", count, f"a multiple of {unit}")
        part = Matrix.from_buffer_copy(whole)
        part.outputs, part.keep = count, whole
        for data, nbytes in (("data", "data_bytes"), ("rows", "rows_bytes")):
            if getattr(whole, data):
                one = getattr(whole, nbytes) * unit // last
                setattr(part, data, getattr(whole, data) + first // unit * one)
                setattr(part, nbytes, count // unit * one)
        return part

    def transform(self, name: str) -> object:
        return self._archive.tensors[self._present(name)].descriptor.transform

    def bits(self, name: str) -> int:
        """Of a code; 0 for a dense tensor."""
        descriptor = self._archive.tensors[self._present(name)].descriptor
        return 0 if descriptor.is_dense else descriptor.codec.code_bits  # type: ignore[attr-defined]

    def vector(self, name: str, size: int) -> np.ndarray:
        """float32 `[size]`."""
        stored = self._present(name)
        if stored not in self._vectors:
            self._vectors[stored] = self._floats(stored)
        found = self._vectors[stored]
        if found.shape != (size,):
            raise _refuse("has another shape", stored, found.shape, (size,))
        return found

    def unused(self) -> Iterator[str]:
        """Tensors that nobody asked for, and that are no constants of older checkpoints."""
        for name in self._archive.tensors:
            if name not in self._used and not name.endswith(_IGNORED):
                yield name

    def _present(self, name: str) -> str:
        stored = self.stored(name)
        if stored is None:
            raise _refuse("tensor is missing", name)
        self._used.add(stored)
        return stored

    def _mapped(self, stored: str, axes: str) -> Matrix:
        entry = self._archive.tensors[stored]
        descriptor = entry.descriptor
        if len(descriptor.shape) != 2 or descriptor.axes not in (axes, ""):
            got = f"shape {descriptor.shape}, axes {descriptor.axes!r}"
            raise _refuse("is not the matrix that the family has there", stored, got, axes)
        # what is exact does not say which axis is which
        descriptor = dataclasses.replace(descriptor, axes=axes)
        arrays = {suffix: self._archive.file.mapped(array) for suffix, array in entry.arrays.items()}
        places = {suffix: (array.ctypes.data, array.nbytes) for suffix, array in arrays.items()}
        try:
            return matrix_of(descriptor, places, arrays)
        except HiggsxError as error:
            raise _refuse(error.what, stored, error.got) from None

    def _floats(self, stored: str) -> np.ndarray:
        entry = self._archive.tensors[stored]
        descriptor = entry.descriptor
        dtype = getattr(descriptor.codec, "dtype", None)
        if not descriptor.is_dense or dtype not in _FLOATS:
            raise _refuse("is no plain vector", stored, dtype)
        raw = self._archive.file.mapped(entry.arrays[""])
        if dtype == "BF16":
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(descriptor.shape)
        return raw.view("<f2" if dtype == "F16" else "<f4").astype(np.float32).reshape(descriptor.shape)


def _refuse(what: str, where: str, got: object = None, expected: object = None) -> ModelError:
    return ModelError(what, where=where, got=got, expected=expected, code="FAMILY")
