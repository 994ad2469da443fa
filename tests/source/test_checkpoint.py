"""A folder as a source: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from folders import copy_of, edit_config, tensors_of, tiny_folder, write_shards
from higgsx.errors import SourceError
from higgsx.hgs.manifest import ASSETS
from higgsx.source.checkpoint import INDEX, Checkpoint
from higgsx.source.header import read_header
from higgsx.source.hub import open_source

Get = Callable[[str], Path]


@pytest.fixture
def folder(tiny: Get, tmp_path: Path) -> Path:
    return copy_of(tiny("qwen2-untied"), tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny_folder("qwen2-untied", tmp_path / "sharded", shards="40KB")


def refused(folder: Path, words: str) -> None:
    with pytest.raises(SourceError, match=words) as caught:
        Checkpoint.open(folder)
    assert "\n" not in str(caught.value)


def test_reads_what_is_there(folder: Path) -> None:
    expected = tensors_of(folder)
    source = Checkpoint.open(folder)
    assert source.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(source.read(name), tensor)
        assert torch.equal(source.read_rows(name, 3, 11), tensor[3:11])
    assert source.nbytes == sum(tensor.nbytes for tensor in expected.values())
    source.close()
    assert torch.equal(source.read(name), tensor)
    source.close()


def test_threads_share_one_open_file(folder: Path) -> None:
    source = Checkpoint.open(folder)
    names = list(source.tensors) * 20
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source.read, names))
    assert len(source._open) == 1
    source.close()


def test_shards_are_the_same_source(folder: Path, sharded: Path) -> None:
    whole, parts = Checkpoint.open(folder), Checkpoint.open(sharded)
    assert len({info.file for info in parts.tensors.values()}) > 2
    assert whole.fingerprint == parts.fingerprint
    assert whole.nbytes == parts.nbytes


def test_fingerprint_sees_ends_and_headers(folder: Path) -> None:
    before = Checkpoint.open(folder).fingerprint
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert Checkpoint.open(folder).fingerprint != before


def test_only_listed_assets_travel(folder: Path) -> None:
    (folder / "vocab.json").write_text("{}")
    (folder / "secret.pem").write_text("x")
    (folder / "modeling.py").write_text("x")
    assert set(Checkpoint.open(folder).assets(ASSETS)) == {
        "config.json", "generation_config.json", "vocab.json"
    }  # fmt: skip


def test_one_file_goes_before_an_index_as_in_transformers(folder: Path) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    assert Checkpoint.open(folder).tensors.keys() == tensors_of(folder).keys()


def test_folder_without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "tf_model.h5"])
def test_pickles_are_refused_with_a_way_out(folder: Path, file: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / file).write_bytes(b"\x80\x02")
    refused(folder, "can run code when loaded.*save_pretrained")


def test_no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, r"no config\.json")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}'])
def test_bad_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, r"config\.json")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantized_folder_names_the_method(folder: Path, method: str) -> None:
    edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
    refused(folder, f"already quantized.*{method}")


def test_missing_shard(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*"))[1]
    shard.unlink()
    refused(sharded, f"shard is missing.*{shard.name}")


def test_missing_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refused(sharded, f"no index.*{INDEX}")
    for shard in sorted(sharded.glob("model-*"))[1:]:
        shard.unlink()
    refused(sharded, f"no index.*{INDEX}")


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "model.bin", "sub/x.safetensors"])
def test_index_may_not_leave_the_folder(sharded: Path, name: str) -> None:
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    refused(sharded, "only name safetensors files beside it")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_bad_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    refused(sharded, "index")


def test_index_names_more_than_there_is(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.more.weight"] = next(iter(index["weight_map"].values()))
    (sharded / INDEX).write_text(json.dumps(index))
    refused(sharded, r"lack tensors.*model\.more\.weight")


def test_one_tensor_in_two_shards(folder: Path) -> None:
    one = {"a.weight": torch.ones(2, 2)}
    write_shards(folder, {"model-1-of-2.safetensors": one, "model-2-of-2.safetensors": one})
    index = {"weight_map": {"a.weight": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, r"a\.weight: two shards")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, "too short|not a complete|truncated")


def header(path: Path, entries: object, data: bytes = b"") -> Path:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "not a safetensors header"),
        (b"{\xff}", "no UTF-8"),
        (b'{"a": 1', "brackets"),
        ({"a": 3}, "not a tensor entry"),
        ({"a": {"dtype": "F32"}}, "not a tensor entry"),
        ({"a": {**GOOD, "dtype": "F8_E4M3"}}, "dtype is not supported.*F8_E4M3"),
        ({"a": {**GOOD, "shape": [-2]}}, "not a tensor entry"),
        ({"a": {**GOOD, "shape": [2.0]}}, "not a tensor entry"),
        ({"a": {**GOOD, "shape": [3]}}, "does not fit the shape"),
        ({"a": {**GOOD, "data_offsets": [8, 0]}}, "does not fit the shape"),
        ({"a": {**GOOD, "data_offsets": [0, 8, 9]}}, "not a tensor entry"),
        ({"a": {**GOOD, "data_offsets": [4, 12]}}, "truncated"),
        ({"a": {**GOOD, "shape": [1 << 62, 2], "data_offsets": [0, 1 << 65]}}, "too large|truncated"),
        (b'{"a": %s}' % (b"[" * 5000), "JSON|nest"),
    ],
)
def test_headers_that_lie(tmp_path: Path, entries: object, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read_header(header(tmp_path / "x.safetensors", entries, bytes(8)))


def test_unknown_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="is a file"):
        open_source(tmp_path / "file")
    for name in ("../up", "a/b/c", "", "a b", "~nobody/x"):
        with pytest.raises(SourceError):
            open_source(name)
