from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from blake3 import blake3
from safetensors import safe_open
from safetensors.numpy import load_file

from higgsx.errors import FormatError, StorageError
from higgsx.hgs import Draft, HgsFile, Writer
from higgsx.hgs.header import build_header, pad_header, parse_header
from higgsx.hgs.layout import header_bytes, place


def test_everything_comes_back(file, sample) -> None:
    assert list(file.manifest.tensors) == sorted(file.manifest.tensors)
    for name, data in sample.data.items():
        assert file.mapped(name).tobytes() == file.read(name) == data.tobytes()
        assert (file.arrays[name].dtype, file.arrays[name].shape) == sample.arrays[name]
    for name, _, arrays in sample.draft.tensors:
        assert file.manifest.tensors[name].arrays == tuple(array for array, _, _ in arrays)
    assert file.manifest.tensors["a.weight"].descriptor == sample.draft.tensors[3][1]
    assert file.manifest.ties == (("z.weight", "head.weight"),)
    assert file.assets == ("config.json", "merges.txt", "tokenizer.json")
    assert {name: file.asset(name) for name in file.assets} == sample.draft.assets
    assert (file.manifest.plan, file.manifest.recipe) == (sample.draft.plan, sample.draft.recipe)
    assert file.damage() == {"kl": "0.01"}
    assert file.verify() == []


def test_arrays_are_aligned_and_in_the_order_of_the_draft(file, sample) -> None:
    names = [name for name in file.arrays if not name.startswith("hgs.")]
    assert names == list(sample.arrays)
    assert all(array.begin % 64 == 0 for array in file.arrays.values() if not array.is_pad)
    own = [name for name in file.arrays if name.startswith("hgs.") and not name.startswith("hgs.pad.")]
    assert own == ["hgs.asset.config.json", "hgs.asset.tokenizer.json", "hgs.damage", "hgs.tail"]


def test_the_reference_library_sees_the_same_bytes(file, path, sample) -> None:
    loaded = load_file(path)
    assert set(loaded) == set(file.arrays)
    for name, data in sample.data.items():
        assert loaded[name].tobytes() == data.tobytes() and loaded[name].shape == sample.arrays[name][1]
    with safe_open(path, "numpy") as reference:
        assert reference.metadata()["format"] == "pt"


def test_mapped_arrays_outlive_the_file_and_never_change_it(sample, path) -> None:
    sample.write(path)
    with HgsFile.open(path) as file:
        array = file.mapped("z.weight_hgs")
    assert array.tobytes() == sample.data["z.weight_hgs"].tobytes()
    before = path.read_bytes()
    array[:] = 1
    assert path.read_bytes() == before
    with pytest.raises(StorageError, match="closed"):
        file.read("z.weight_hgs")


def test_wrong_names_are_refused(file) -> None:
    with pytest.raises(FormatError, match="no such array"):
        file.mapped("z.weight")
    with pytest.raises(FormatError, match="no such asset"):
        file.asset("vocab.txt")


def test_nothing_measured(sample, path) -> None:
    sample.write(path)
    with HgsFile.open(path) as file:
        assert file.damage() is None and file.verify() == []


def test_digests_are_what_the_specification_says(file, path) -> None:
    """Computed here from the bytes, by the text of docs/format.md."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    text = header.pop("__metadata__")["hgs"]
    spans = sorted((entry["data_offsets"], name) for name, entry in header.items())
    digest = {name: blake3(raw[8 + length + begin : 8 + length + end]) for (begin, end), name in spans}
    assert file.content_digest == blake3(text.encode()).hexdigest()
    entry = json.loads(text)["tensors"]["z.weight"]
    arrays = [
        [name, header[name]["dtype"], header[name]["shape"], digest[name].hexdigest()]
        for name in entry["arrays"]
    ]
    bound = {"name": "z.weight", "descriptor": entry["descriptor"], "arrays": arrays}
    canonical = json.dumps(bound, sort_keys=True, separators=(",", ":"))
    assert entry["digest"] == blake3(canonical.encode()).hexdigest()
    everything = raw[: 8 + length] + b"".join(digest[name].digest() for _, name in spans[:-1])
    assert raw[-32:] == blake3(everything).digest()
    assert raw[-64:-32] == digest["hgs.damage"].digest()
    assert raw[-96:-64] == blake3(raw[: 8 + length]).digest()
    assert raw[-112:-96] == b"HIGGS-X hgs tail" and not any(raw[-65_600:-112])


def test_progress_covers_the_whole_file(file) -> None:
    seen: list[tuple[int, int]] = []
    assert file.verify(lambda done, total: seen.append((done, total))) == []
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_arrays_longer_than_the_reading_window(path) -> None:
    """The window of 8 MiB cuts two arrays; a flipped byte in each part is found."""
    data = np.random.default_rng(0).integers(0, 256, 20_000_001, np.uint8)
    names = ["a", "b", "c"]
    spans = {"a": data[:5_000_000], "b": data[5_000_000:16_777_300], "c": data[16_777_300:]}
    draft = Draft([(name, {}, [(name, "U8", (len(spans[name]),))]) for name in names])
    with Writer(path, draft) as writer:
        for name in names:
            for begin in range(0, len(spans[name]), 3_000_001):
                writer.append(name, spans[name][begin : begin + 3_000_001])
        writer.finish()
    with HgsFile.open(path) as file:
        assert file.verify() == []
        for name, offset in (("a", 0), ("b", 3_388_607), ("b", 11_777_299), ("c", 3_222_700)):
            place = file.arrays[name].begin + offset
            with open(path, "r+b") as other:
                other.seek(place)
                byte = other.read(1)[0]
                other.seek(place)
                other.write(bytes([byte ^ 16]))
                other.flush()
                assert file.verify() == [name]
                other.seek(place)
                other.write(bytes([byte]))
        assert file.verify() == []


def test_no_interpreter_and_no_zip_reader_takes_it(sample, path) -> None:
    """Even with a whole archive inside."""
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("__main__.py", "print('ran')")
    sample.draft.assets["tokenizer.json"] = archive.read_bytes()
    sample.write(path)
    assert zipfile.is_zipfile(archive) and not zipfile.is_zipfile(path)
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode != 0 and "ran" not in done.stdout


def test_offsets_beyond_32_bits(path) -> None:
    """A sparse file: only its header and tail are ever written."""
    draft = Draft(
        [(name, {}, [(name, "U8", ((1 << 32) + 5,))]) for name in ("a", "b")], assets={"LICENSE": b"x"}
    )
    try:
        writer = Writer(path, draft)
    except StorageError as error:
        pytest.skip(str(error))
    with writer, writer.open_partial() as file:
        assert file.arrays["b"].begin - file.arrays["a"].begin == (1 << 32) + 64
        assert file.asset("LICENSE") == b"x"
        place = file.arrays["b"].end - 1
        writer.append("b", b"\x01")
        with open(writer.path, "r+b") as other:
            other.seek(place)
            other.write(b"\x07")
        assert file.mapped("b")[[0, -1]].tolist() == [1, 7]


def test_a_hundred_thousand_tensors() -> None:
    names = [f"model.blocks.{index}.w" for index in range(100_000)]
    draft = Draft([(name, {"codec": "dense", "shape": [16]}, [(name, "F32", (16,))]) for name in names])
    arrays = place(draft.specs())
    text = build_header(arrays, draft.manifest().to_text())
    raw = pad_header(text, header_bytes(len(text)))
    header = parse_header(raw, len(raw) + arrays[-1].end)
    assert [array.name for array in header.arrays[:100_000]] == names
    assert header.arrays[99_999].begin - header.arrays[0].begin == 64 * 99_999
