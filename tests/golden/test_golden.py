"""Golden files: what every release reads, to the bit, and writes again, to the byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import make
import numpy as np
import pytest
import torch
from golden_cases import CASES, RETIRED
from golden_parts import codes_of, scales_of

from higgsx.archive import Archive
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import PanelCodec
from higgsx.kernels import native, ops
from higgsx.kernels.packed import Packed

SEALS = {
    29: "32c14f1ea216c8d0c61ea348047adacd69eac89809a853d18a0288540e0211ae",
    30: "bf2a3d021ea67a6da200c3464cb40ff77f060a19344f050f42e8ff1738ae1fb3",
}
"""Number of files → digest of all that `digests.json` says of them. Only ever added to."""

KNOWN = make.digests()
every = pytest.mark.parametrize("name", KNOWN)


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    return make.second_reader()


def unpacked(name: str, folder: Path) -> Path:
    return make.unpack(name, folder / f"{name}.hgs")


@every
def test_both_readers_see_what_was_recorded(name: str, tmp_path: Path, reader: ModuleType) -> None:
    path = unpacked(name, tmp_path)
    assert make.seen_by_package(path) == KNOWN[name]
    theirs = make.seen_by_second_reader(path, reader)
    assert theirs == KNOWN[name] and list(theirs["values"]) == list(KNOWN[name]["values"])


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in RETIRED])
def test_written_again_it_is_the_same_file(name: str, tmp_path: Path) -> None:
    path, golden = tmp_path / "again.hgs", unpacked(name, tmp_path)
    make.write_again(name, path, golden)
    assert path.read_bytes() == golden.read_bytes()


def test_native_kernels_decode_the_same_bits(tmp_path: Path) -> None:
    """On every instruction set of this machine."""
    missing = native.available()
    if missing is not None:
        pytest.skip(f"no native kernels: {missing}")
    library = native.load()
    before, decoded = library.tier, 0
    try:
        for name, entry in KNOWN.items():
            with Archive.open(unpacked(name, tmp_path)) as archive:
                for tensor, one in archive.tensors.items():
                    if one.descriptor.is_dense:
                        continue
                    weight = Packed(one.descriptor, archive.arrays(tensor), torch.float32)
                    for tier in library.tiers():
                        library.check(library.hgx_set_tier(tier.encode()))
                        with ops.forced("native"):
                            values = ops.decode(weight)
                            assert make.digest_of(values) == entry["values"][tensor], (name, tensor, tier)
                            if one.descriptor.axes == "oi":
                                # backwards: rows of several panels at once
                                rows = ops.embedding(torch.arange(len(values)).flip(0), weight)
                                same = rows.view(torch.int32).equal(values.flip(0).view(torch.int32))
                                assert same, (name, tensor, tier)
                        decoded += 1
    finally:
        library.check(library.hgx_set_tier(before.encode()))
    assert decoded > 300


def test_no_golden_file_is_lost_or_changed() -> None:
    assert sorted(make.FOLDER.glob("*.hgs.xz")) == sorted(make.stored_file(name) for name in KNOWN)
    assert set(KNOWN) == {*CASES, *RETIRED} and not set(CASES) & set(RETIRED)
    log = (make.FOLDER.parents[1] / "docs" / "log.md").read_text(encoding="utf-8")
    assert all(f"**{title}**" in log for title in RETIRED.values())
    for count, digest in SEALS.items():
        assert make.seal(KNOWN, count) == digest, f"one of the first {count} files has changed"


def test_making_them_touches_none_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    for file in (*make.FOLDER.glob("*.xz"), make.DIGESTS):
        shutil.copy(file, folder)
    monkeypatch.setattr(make, "FOLDER", folder)
    monkeypatch.setattr(make, "DIGESTS", folder / make.DIGESTS.name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    make.main()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert make.seal(KNOWN, len(KNOWN)) in capsys.readouterr().out
    # one that is there but not entered is not written over
    make.DIGESTS.write_text(json.dumps({name: entry for name, entry in KNOWN.items() if name != "names"}))
    with pytest.raises(SystemExit, match="names.hgs.xz exists"):
        make.main()
    assert (folder / "names.hgs.xz").read_bytes() == before["names.hgs.xz"]
    # one that is gone comes back byte by byte, so that a lost file is noticed by the list alone
    (folder / "names.hgs.xz").unlink()
    make.main()
    assert make.digests()["names"] == KNOWN["names"]


def test_slices_hold_the_values_of_the_whole(tmp_path: Path) -> None:
    with Archive.open(unpacked("slices", tmp_path)) as archive:
        whole = archive.decode("whole")
        parts = {"rows": whole[16:], "columns": whole[:, 128:], "middle": whole[:, 128:256]}
        for name, expected in {**parts, "corner": whole[:16, :128]}.items():
            assert torch.equal(archive.decode(name), expected), name


def test_imports_have_the_values_of_their_own_formats(tmp_path: Path) -> None:
    """By the formulas of those formats, from the numbers that were put in."""
    offsets = {"q4_0": 8, "q5_0": 16, "q8_0": 128}
    with Archive.open(unpacked("imports", tmp_path)) as archive:
        for name, one in archive.tensors.items():
            codec, (rows, inputs) = one.descriptor.codec, one.descriptor.shape
            assert isinstance(codec, PanelCodec)
            codes = codes_of(codec, inputs, rows, f"imports {codec.code_bits}").numpy().astype(np.float32)
            scales = scales_of(codec, inputs, rows, f"imports {name}")
            assert scales.block is not None and scales.row is None
            d = np.repeat(scales.block.numpy().astype(np.float32), codec.block, 0)
            if name == "iq4_nl":
                expected = d * np.array(TABLES["iq4"], np.float32)[codes.astype(int)]
            elif scales.zero is None:
                expected = d * (codes - np.float32(offsets[name]))
            else:
                zero = scales.zero if codec.zero != "u8" else scales.zero & 15
                z = np.repeat(zero.numpy().astype(np.float32), codec.block, 0)
                expected = d * codes + z if codec.zero == "min" else d * (codes - z)
            assert archive.decode(name).numpy().tobytes() == expected.T.tobytes(), name
