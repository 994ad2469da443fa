"""An opened file: what it says fits its bytes, and every read is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from higgsx.archive import Archive
from higgsx.errors import FormatError, HiggsxError, StorageError
from higgsx.hgs.draft import Draft
from higgsx.hgs.writer import Writer
from higgsx.io import read_at

Get = Callable[[str], Path]
DENSE = {
    "dtype": "F32", "shape": [4, 2], "axes": "", "codec": "dense", "params": {"dtype": "F32"},
    "transform": None,
}  # fmt: skip


def write(path: Path, descriptor: dict, arrays: list, assets: dict[str, bytes] | None = None) -> Path:
    """A file that is sound for the container, whatever the descriptor says."""
    draft = Draft([("w", descriptor, arrays)], assets=assets or {})
    with Writer(path, draft) as writer:
        for name, dtype, shape in arrays:
            writer.append(name, bytes({"F32": 4, "U8": 1}[dtype] * torch.Size(shape).numel()))
        writer.finish()
    return path


def test_sizes_and_bits(tales_hgs: Path) -> None:
    with Archive.open(tales_hgs) as archive:
        total, weights = 0, 0
        for name, stored in archive.tensors.items():
            arrays = archive.arrays(name)
            assert sum(array.nbytes for array in arrays.values()) == stored.nbytes
            assert stored.nbytes == stored.descriptor.nbytes()
            if len(stored.descriptor.shape) > 1:
                total, weights = total + stored.nbytes, weights + stored.descriptor.weights
        assert archive.bits() == 8 * total / weights
        assert archive.config["model_type"] == "llama"
        assert "tokenizer.json" in archive.assets()


def test_order_is_that_of_execution(tales_hgs: Path) -> None:
    with Archive.open(tales_hgs) as archive:
        names = list(archive.tensors)
        begins = [
            archive.file.arrays[next(iter(one.arrays.values()))].begin for one in archive.tensors.values()
        ]
    assert begins == sorted(begins)
    matrices = [name.split(".")[-2] for name in names if "layers.2" in name and "norm" not in name]
    assert matrices == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert names[0] == "model.embed_tokens.weight"


def test_arrays_are_the_file_itself(tales_hgs: Path) -> None:
    with Archive.open(tales_hgs) as archive:
        name = "model.layers.0.self_attn.q_proj.weight"
        array = archive.arrays(name)["_hgs"]
        info = archive.file.arrays[name + "_hgs"]
        with tales_hgs.open("rb") as file:
            assert bytes(array.flatten().tolist()) == read_at(file.fileno(), info.begin, info.nbytes)
    # it outlives the archive, and writing into it changes no file
    before = tales_hgs.read_bytes()
    array.zero_()
    assert tales_hgs.read_bytes() == before


def test_rows_are_rows(tiny_hgs: Get) -> None:
    with Archive.open(tiny_hgs("llama")) as archive:
        stored = archive.tensors["model.embed_tokens.weight"]
        rows = torch.tensor([5, 0, 95, 5])
        picked = stored.descriptor.decode_rows(archive.arrays(stored.name), rows)
        assert torch.equal(picked, archive.decode(stored.name)[rows])


@pytest.mark.parametrize(
    ("change", "arrays", "code"),
    [
        ({"codec": "zip"}, [("w", "F32", (4, 2))], "CODEC"),
        ({"shape": [4, 3]}, [("w", "F32", (4, 2))], "SIZE"),
        ({"shape": [0, 2]}, [("w", "F32", (4, 2))], "SHAPE"),
        ({"shape": "4x2"}, [("w", "F32", (4, 2))], "CODEC"),
        ({"dtype": "F7"}, [("w", "F32", (4, 2))], "DTYPE"),
        ({"axes": "oio"}, [("w", "F32", (4, 2))], "SHAPE"),
        ({"params": {"dtype": "F32", "more": 1}}, [("w", "F32", (4, 2))], "CODEC"),
        ({"params": {"dtype": "F16"}}, [("w", "F32", (4, 2))], "SIZE"),
        ({"more": 1}, [("w", "F32", (4, 2))], "CODEC"),
        ({"transform": {"kind": "fourier"}}, [("w", "F32", (4, 2))], "CODEC"),
        ({}, [("w_hgs", "U8", (32,))], "MANIFEST"),
    ],
)
def test_descriptors_that_lie(change: dict, arrays: list, code: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.hgs", DENSE | change, arrays)
    with pytest.raises(FormatError) as caught:
        Archive.open(path)
    assert caught.value.code == code
    assert "w" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b'{"a": NaN}'])
def test_configuration_that_is_none(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "m.hgs", DENSE, [("w", "F32", (4, 2))], {"config.json": content})
    with Archive.open(path) as archive, pytest.raises(FormatError, match=r"config\.json"):
        _ = archive.config


def test_without_a_configuration(tmp_path: Path) -> None:
    with Archive.open(write(tmp_path / "m.hgs", DENSE, [("w", "F32", (4, 2))])) as archive:
        assert archive.config == {}
        assert torch.equal(archive.decode("w"), torch.zeros(4, 2))
        assert archive.verify() == []


def test_damaged_codes_are_named(tiny_hgs: Get, tmp_path: Path) -> None:
    data = bytearray(tiny_hgs("gpt2").read_bytes())
    name = "transformer.h.1.mlp.c_fc.weight"
    with Archive.open(tiny_hgs("gpt2")) as archive:
        info = archive.file.arrays[name + "_hgs"]
    data[info.begin + 17] ^= 4
    (tmp_path / "m.hgs").write_bytes(data)
    with Archive.open(tmp_path / "m.hgs") as archive:
        assert archive.verify() == [name]


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.hgs"):
        with pytest.raises(StorageError):
            Archive.open(path)
    (tmp_path / "m.hgs").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(HiggsxError, match="GGUF"):
        Archive.open(tmp_path / "m.hgs")
