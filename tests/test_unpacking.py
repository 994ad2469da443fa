"""Back to an ordinary folder: complete or not there at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import higgsx
from folders import listing, tensors_of
from higgsx.archive import Archive
from higgsx.errors import StorageError
from higgsx.hgs.draft import Draft
from higgsx.hgs.writer import Writer
from higgsx.kernels import ops
from higgsx.kernels.native import available
from higgsx.unpacking import unpack

Get = Callable[[str], Path]


def test_weights_are_the_decoded_ones_in_bf16(tales_hgs: Path, tales: Path, tmp_path: Path) -> None:
    nbytes = higgsx.unpack(tales_hgs, tmp_path / "plain")
    found, originals = tensors_of(tmp_path / "plain"), tensors_of(tales)
    assert nbytes == sum(tensor.nbytes for tensor in found.values())
    with Archive.open(tales_hgs) as archive:
        assert found.keys() == set(archive.tensors)
        for name, stored in archive.tensors.items():
            expected = archive.decode(name).to(torch.bfloat16)
            assert torch.equal(found[name].view(torch.int16), expected.view(torch.int16))
            if stored.descriptor.is_exact:
                assert torch.equal(found[name], originals[name])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_native_and_reference_kernels_write_the_same(family: str, tiny_hgs: Get, tmp_path: Path) -> None:
    """And the native ones do serve, whatever the layout of a weight."""
    file = tiny_hgs(family)
    with ops.watched() as seen:
        higgsx.unpack(file, tmp_path / "now")
    assert {name for _, name in seen} == {"native" if available() is None else "reference"}
    with ops.forced("reference"):
        higgsx.unpack(file, tmp_path / "reference")
    assert listing(tmp_path / "now") == listing(tmp_path / "reference")


def test_assets_come_back_as_they_were(tales_hgs: Path, tales: Path, tmp_path: Path) -> None:
    higgsx.unpack(tales_hgs, tmp_path / "plain")
    found, originals = listing(tmp_path / "plain"), listing(tales)
    assert found.keys() == originals.keys()
    for name in originals:
        if name not in ("config.json", "model.safetensors"):
            assert found[name] == originals[name]
    config = json.loads(found["config.json"])
    assert config == {**json.loads(originals["config.json"]), "dtype": "bfloat16"}


def test_slabs_do_not_show(tiny_hgs: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    higgsx.unpack(tiny_hgs("gptj"), tmp_path / "whole")
    monkeypatch.setattr("higgsx.unpacking._SLAB", 16 * 64)
    higgsx.unpack(tiny_hgs("gptj"), tmp_path / "slabs")
    assert listing(tmp_path / "whole") == listing(tmp_path / "slabs")


def test_a_full_folder_needs_force(tiny_hgs: Get, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="not empty.*--force"):
        higgsx.unpack(tiny_hgs("llama"), tmp_path)
    assert listing(tmp_path) == {"notes.txt": b"mine"}
    higgsx.unpack(tiny_hgs("llama"), tmp_path, force=True)
    assert listing(tmp_path)["notes.txt"] == b"mine"
    assert "model.safetensors" in listing(tmp_path)


def test_a_file_stands_there(tiny_hgs: Get, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("mine")
    with pytest.raises(StorageError, match="is a file"):
        higgsx.unpack(tiny_hgs("llama"), tmp_path / "plain", force=True)
    with pytest.raises(StorageError, match="cannot be created"):
        higgsx.unpack(tiny_hgs("llama"), tmp_path / "plain" / "deeper")
    assert listing(tmp_path) == {"plain": b"mine"}


def test_the_input_is_never_overwritten(tiny_hgs: Get, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_hgs("llama").read_bytes())
    with pytest.raises(StorageError, match="output is the input"):
        higgsx.unpack(path, tmp_path, force=True)
    assert listing(tmp_path) == {path.name: tiny_hgs("llama").read_bytes()}


@pytest.mark.parametrize("there", [False, True])
def test_interrupted_unpacking_leaves_nothing(there: bool, tiny_hgs: Get, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    if there:
        folder.mkdir()
        (folder / "config.json").write_text("mine")

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with Archive.open(tiny_hgs("llama")) as archive, pytest.raises(KeyboardInterrupt):
        unpack(archive, folder, force=True, progress=stop)
    assert listing(tmp_path) == ({"plain/config.json": b"mine"} if there else {})
    assert folder.exists() == there


def test_mixed_dtypes_stay_readable(tmp_path: Path) -> None:
    """One byte before two bytes before eight: every tensor begins where its own numbers may."""
    tensors = {
        "a": torch.tensor([True, False, True]),
        "b": torch.arange(5, dtype=torch.int64),
        "c": torch.tensor(2.5, dtype=torch.float16),
        "d": torch.arange(6, dtype=torch.float32).view(2, 3),
    }
    names = {torch.bool: "BOOL", torch.int64: "I64", torch.float16: "F16", torch.float32: "F32"}
    rows = []
    for name, tensor in tensors.items():
        kind, shape = names[tensor.dtype], list(tensor.shape)
        descriptor = {
            "dtype": kind, "shape": shape, "axes": "", "codec": "dense", "params": {"dtype": kind},
            "transform": None,
        }  # fmt: skip
        rows.append((name, descriptor, [(name, kind, tuple(shape))]))
    with Writer(tmp_path / "m.hgs", Draft(rows)) as writer:
        for name, tensor in tensors.items():
            writer.append(name, tensor.reshape(-1).view(torch.uint8).numpy())
        writer.finish()
    higgsx.unpack(tmp_path / "m.hgs", tmp_path / "plain")
    found = tensors_of(tmp_path / "plain")
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
