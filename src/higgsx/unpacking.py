"""From a `.hgs` back to an ordinary model folder: nobody is locked in.

Compressed tensors are decoded and rounded to bfloat16, exact ones are copied, so that transformers computes
with the folder exactly what `higgsx.load` computes with in bfloat16.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from higgsx import io
from higgsx.archive import Archive, Stored
from higgsx.codecs.base import DTYPE_BYTES, ArrayShape, torch_dtype
from higgsx.errors import StorageError
from higgsx.kernels import ops
from higgsx.kernels.packed import Packed
from higgsx.units import round_up

DTYPE = "BF16"
_SLAB = 1 << 22
_PANEL = 16


def unpack(
    archive: Archive, folder: Path, force: bool = False, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write weights and assets; returns the bytes of the weights. Where it fails, nothing new is left.

    force  write into a folder that is there and not empty; StorageError otherwise
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError("is a file", where=folder, expected="a folder")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise StorageError(
            "exists already and is not empty",
            where=folder,
            remedy="use --force to write into it",
            code="EXISTS",
        )
    weights = folder / "model.safetensors"
    if any(io.same_file(archive.file.path, folder / name) for name in (weights.name, *archive.file.assets)):
        raise StorageError(
            "the output is the input", where=folder, remedy="choose another folder", code="SAME"
        )
    assets = {folder / name: data for name, data in archive.assets().items()}
    if folder / "config.json" in assets:
        assets[folder / "config.json"] = json.dumps(
            {**_plain(archive), "dtype": "bfloat16"}, indent=2
        ).encode()
    undo = _make_folder(folder)
    try:
        return _write(archive, weights, assets, undo, progress)
    except BaseException:
        for remove in reversed(undo):
            with contextlib.suppress(OSError):
                remove()
        raise


def _plain(archive: Archive) -> dict[str, object]:
    """The configuration without the older word for its dtype."""
    return {key: value for key, value in archive.config.items() if key != "torch_dtype"}


def _make_folder(folder: Path) -> list[Callable[[], None]]:
    """How to undo it, if there was none."""
    if folder.is_dir():
        return []
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise StorageError("cannot be created", where=folder, got=error.strerror) from None
    return [folder.rmdir]


def _write(
    archive: Archive,
    path: Path,
    assets: Mapping[Path, bytes],
    undo: list[Callable[[], None]],
    progress: Callable[[int, int], None] | None,
) -> int:
    """Weights first and in place last: a folder with weights is complete."""
    stored = sorted(archive.tensors.values(), key=lambda one: (-DTYPE_BYTES[_dtype(one)], one.name))
    header, nbytes = _header(stored)
    total = len(header) + nbytes
    partial = io.PartialFile(path, size=total, force=True)
    undo.append(partial.discard)
    partial.write_at(0, header)
    place = len(header)
    for one in stored:
        for part in _decoded(archive, one):
            data = part.contiguous().reshape(-1).view(torch.uint8).numpy()
            partial.write_at(place, data.data)
            place += data.nbytes
            if progress is not None:
                progress(place, total)
    for name, content in assets.items():
        if not name.exists():
            undo.append(name.unlink)
        io.write_file_atomic(name, content)
    partial.sync()
    partial.commit()
    return nbytes


def _header(stored: Sequence[Stored]) -> tuple[bytes, int]:
    """The head of a safetensors file of these tensors, and the bytes of what follows."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for one in stored:
        dtype, shape = _dtype(one), one.descriptor.shape
        end = offset + ArrayShape(dtype, shape).nbytes
        entries[one.name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(round_up(len(text), 8))
    return struct.pack("<Q", len(text)) + text, offset


def _dtype(one: Stored) -> str:
    return one.descriptor.dtype if one.descriptor.is_exact else DTYPE


def _decoded(archive: Archive, one: Stored) -> Iterator[torch.Tensor]:
    """The tensor in its dtype of the folder, in slabs where it is a plain matrix."""
    descriptor, arrays = one.descriptor, archive.arrays(one.name)
    packed = Packed(descriptor, arrays, torch_dtype(_dtype(one)))
    if descriptor.is_dense:
        yield descriptor.decode(arrays).to(packed.dtype)
    elif descriptor.axes == "oi":
        outputs, inputs = descriptor.shape
        step = max(1, _SLAB // inputs // _PANEL) * _PANEL
        for begin in range(0, outputs, step):
            yield ops.embedding(torch.arange(begin, min(begin + step, outputs)), packed)
    else:
        yield ops.decode(packed)
