"""Files that were sound once: bits flipped, ends cut off, changed while open."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

from higgsx.errors import FormatError, IntegrityError, StorageError
from higgsx.hgs import HgsFile

DAMAGE_BYTES, TAIL_BYTES, RECORD_BYTES = 1 << 15, 65_600, 112


class Bench:
    """The file open for writing, so that one bit can be flipped and put back."""

    def __init__(self, path: Path, raw: bytes) -> None:
        path.write_bytes(raw)
        self.path, self.raw = path, raw
        self.fd = os.open(path, os.O_RDWR)

    def found(self, byte: int, bit: int) -> list[str]:
        """What the reader says of the file with this bit flipped; opening may refuse it."""
        os.pwrite(self.fd, bytes([self.raw[byte] ^ 1 << bit]), byte)
        try:
            with HgsFile.open(self.path) as file:
                return file.verify()
        except FormatError as error:
            return [f"refused: {error.code}"]
        finally:
            os.pwrite(self.fd, self.raw[byte : byte + 1], byte)


@pytest.fixture
def bench(tmp_path: Path, tiny: bytes):
    bench = Bench(tmp_path / "flip.hgs", tiny)
    yield bench
    os.close(bench.fd)


def test_every_bit_of_the_header(bench: Bench) -> None:
    begin = next(iter(HgsFile.open(bench.path).arrays.values())).begin
    missed = [(byte, bit) for byte in range(begin) for bit in range(8) if not bench.found(byte, bit)]
    assert missed == []


def test_every_bit_of_the_arrays_names_its_owner(bench: Bench) -> None:
    with HgsFile.open(bench.path) as file:
        owners = {array: name for name, entry in file.manifest.tensors.items() for array in entry.arrays}
        arrays = [array for array in file.arrays.values() if array.name not in ("hgs.damage", "hgs.tail")]
    for array in arrays:
        expected = owners.get(
            array.name, "padding" if array.is_pad else array.name.removeprefix("hgs.asset.")
        )
        for byte in range(array.begin, array.end):
            for bit in range(8):
                assert bench.found(byte, bit) == [expected], (array.name, byte, bit)


def test_every_bit_of_the_damage_record(bench: Bench) -> None:
    begin = len(bench.raw) - TAIL_BYTES - DAMAGE_BYTES
    text = bench.raw[begin:].index(b" ")
    for byte in range(begin, begin + text + 8):
        for bit in range(8):
            assert bench.found(byte, bit) == ["damage record"]
    # of the spaces that fill it, one bit of every 16th byte
    for byte in range(begin + text + 8, begin + DAMAGE_BYTES, 16):
        assert bench.found(byte, byte // 16 % 8) == ["damage record"]
    assert bench.found(begin + DAMAGE_BYTES - 1, 7) == ["damage record"]


def test_every_bit_of_the_tail_record_and_a_sample_of_its_fill(bench: Bench) -> None:
    size = len(bench.raw)
    for byte in range(size - RECORD_BYTES, size):
        for bit in range(8):
            assert bench.found(byte, bit)
    fill = [size - TAIL_BYTES, size - RECORD_BYTES - 1, *range(size - TAIL_BYTES, size - RECORD_BYTES, 97)]
    for byte in fill:
        assert bench.found(byte, byte % 8) == ["refused: CHECKSUM"]


def test_parts_of_the_tail_are_told_apart(bench: Bench) -> None:
    size = len(bench.raw)
    assert bench.found(size - 1, 0) == ["tail"]
    assert bench.found(size - 33, 0) == ["damage record"]
    assert bench.found(size - 65, 0) == ["refused: CHECKSUM"]


def test_several_parts_are_all_named(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "many.hgs"
    path.write_bytes(tiny)
    raw = bytearray(tiny)
    with HgsFile.open(path) as file:
        for name in ("e.weight_hgsr", "l.1.w_hgs", "hgs.asset.config.json", "hgs.damage"):
            raw[file.arrays[name].begin] ^= 1
    path.write_bytes(raw)
    with HgsFile.open(path) as file:
        assert file.verify() == ["e.weight", "l.1.w", "config.json", "damage record"]
        with pytest.raises(IntegrityError, match=r"config\.json"):
            file.asset("config.json")
        with pytest.raises(IntegrityError, match="damage record"):
            file.damage()
        assert file.asset("tokenizer.json") == b'{"model":{}}'


def test_swapped_contents_of_two_like_tensors_are_found(tmp_path: Path, tiny: bytes) -> None:
    """Digests are bound to names; l.0.w and l.1.w have one shape."""
    path = tmp_path / "swap.hgs"
    path.write_bytes(tiny)
    raw = bytearray(tiny)
    with HgsFile.open(path) as file:
        a, b = (file.arrays[f"l.{layer}.w_hgs"] for layer in (0, 1))
    raw[a.begin : a.end], raw[b.begin : b.end] = tiny[b.begin : b.end], tiny[a.begin : a.end]
    path.write_bytes(raw)
    with HgsFile.open(path) as file:
        assert file.verify() == ["l.0.w", "l.1.w"]


def test_a_digest_cannot_be_reused_for_another_meaning(forge, store) -> None:
    """A changed descriptor with the old digest, everything else made to fit."""
    forge.manifest["tensors"]["l.0.w"]["descriptor"]["params"]["exponent"] = 1
    with HgsFile.open(store(forge.build())) as file:
        assert file.verify() == ["l.0.w"]
    forge.manifest["tensors"]["l.0.w"]["descriptor"]["params"]["exponent"] = 0
    forge.manifest["tensors"]["l.0.w"]["digest"] = "0" * 64
    with HgsFile.open(store(forge.build())) as file:
        assert file.verify() == ["l.0.w"]


def test_cut_at_every_length(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "cut.hgs"
    path.write_bytes(tiny)
    header = next(iter(HgsFile.open(path).arrays.values())).begin
    lengths = [*range(len(tiny) - 1, header + 600, -61), *range(header + 600, -1, -1)]
    fd = os.open(path, os.O_RDWR)
    for length in lengths:
        os.ftruncate(fd, length)
        with pytest.raises(FormatError) as caught:
            HgsFile.open(path)
        assert caught.value.code == "TRUNC", length
    os.close(fd)


def test_cut_after_opening(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "cut.hgs"
    path.write_bytes(tiny)
    with HgsFile.open(path) as file:
        os.truncate(path, len(tiny) - 1000)
        with pytest.raises(StorageError, match="ends too early"):
            file.verify()
        with pytest.raises(StorageError, match="ends too early"):
            file.read("hgs.tail")
        assert len(file.read("l.0.n")) == 20


def test_changed_after_opening(tmp_path: Path, tiny: bytes) -> None:
    path = tmp_path / "change.hgs"
    path.write_bytes(tiny)
    with HgsFile.open(path) as file, open(path, "r+b") as other:
        for byte, name in ((20, "header"), (len(tiny) - 200, "tail")):
            other.seek(byte)
            other.write(b"\xff")
            other.flush()
            assert file.verify() == [name]
            other.seek(byte)
            other.write(tiny[byte : byte + 1])
            other.flush()
        assert file.verify() == []


def test_only_ordinary_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    for path in (tmp_path / "fifo", tmp_path, tmp_path / "loop", tmp_path / "absent", Path(os.devnull)):
        with pytest.raises(StorageError):
            HgsFile.open(path)


def test_a_forged_length_allocates_nothing(tmp_path: Path, tiny: bytes) -> None:
    """Measured in a child: sizes are compared before anything is read."""
    for index, start in enumerate([1 << 63, (1 << 26) + 1, (1 << 26), 67_324_752]):
        (tmp_path / f"{index}.hgs").write_bytes(start.to_bytes(8, "little") + tiny[8:])
    with open(tmp_path / "sparse.hgs", "wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate(1 << 41)
    child = """
import resource, sys, pathlib
from higgsx.errors import FormatError
from higgsx.hgs import HgsFile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.hgs")):
    try:
        HgsFile.open(path)
        sys.exit(f"opened {path}")
    except FormatError as error:
        print(error.code)
sys.exit("memory" if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > 1024 else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", child, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["HDR_SIZE", "HDR_SIZE", "TRUNC", "HDR_SIZE", "HDR_SIZE"]


def mutate(forge, random: np.random.Generator) -> None:
    """One field of header or manifest replaced by something of another kind or size."""
    strange = [
        0,
        1,
        -1,
        63,
        64,
        1 << 32,
        1 << 53,
        True,
        None,
        "",
        "x",
        "hgs.tail",
        [],
        [0],
        {},
        {"a": 1},
        "config.json",
    ]
    node: object = forge.header if random.random() < 0.5 else forge.manifest
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[random.integers(len(keys))]
        if isinstance(node[key], (dict, list)) and node[key] and random.random() < 0.75:
            node = node[key]
            continue
        action = random.integers(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node[key], int):
            node[key] += int(random.choice([-64, -1, 1, 64]))
        elif action == 2 and isinstance(node, dict):
            node[str(random.choice(["x", "hgs.pad.0", "l.0.n", "__metadata__"]))] = node.pop(key)
        else:
            node[key] = strange[random.integers(len(strange))]
        return


def test_random_changes_raise_nothing_but_typed_errors(forge, tiny: bytes, store) -> None:
    """And what is still accepted, the reference library accepts too."""
    random = np.random.default_rng(0)
    accepted = 0
    for _ in range(500):
        changed = type(forge)(tiny)
        for _ in range(random.integers(1, 3)):
            mutate(changed, random)
        raw = changed.build()
        path = store(raw)
        try:
            with HgsFile.open(path) as file:
                file.verify()
        except FormatError:
            continue
        accepted += 1
        safetensors.deserialize(raw)
    assert accepted > 10


def test_random_bytes_raise_nothing_but_typed_errors(tiny: bytes, store) -> None:
    random = np.random.default_rng(1)
    for _ in range(400):
        raw = bytearray(tiny)
        for _ in range(random.integers(1, 4)):
            raw[random.integers(0, 4000)] = random.choice(list(b'{}[]",:0129 \\\xff\0'))
        with contextlib.suppress(FormatError):
            HgsFile.open(store(bytes(raw))).close()
