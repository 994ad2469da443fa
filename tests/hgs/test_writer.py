from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

from higgsx.errors import FormatError, HiggsxError, IntegrityError, StorageError
from higgsx.hgs import Draft, HgsFile, Writer, overhead, total_size
from higgsx.hgs.draft import SLACK


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_size_is_known_before(sample, path) -> None:
    for reserve in (0, 1, 63, 64, 10_000):
        sample.write(path, reserve=reserve, force=True)
        size = os.path.getsize(path)
        assert size == total_size(sample.draft, reserve)
        stored = sum(-(-data.nbytes // 64) * 64 for data in sample.data.values())
        assert size == overhead(sample.draft, reserve) + stored
        with HgsFile.open(path) as file:
            assert file.size == size and file.verify() == []


def test_the_same_input_gives_the_same_bytes(sample, path) -> None:
    first = sample.write(path, {"kl": "1"})
    raw = path.read_bytes()
    assert sample.write(path, {"kl": "1"}, force=True) == first and path.read_bytes() == raw
    # what was measured is no content
    assert sample.write(path, {"kl": "2"}, force=True) == first and path.read_bytes() != raw
    sample.data["scale"][0] ^= 1
    assert sample.write(path, {"kl": "1"}, force=True) != first


def test_arrays_may_be_written_in_any_order_and_in_pieces(sample, path) -> None:
    digest = sample.write(path)
    with Writer(path, sample.draft, force=True) as writer:
        for begin in range(0, 700, 100):
            for name in reversed(list(sample.data)):
                writer.append(name, memoryview(sample.data[name][begin : begin + 100]))
        assert writer.finish() == digest


def test_arrays_of_any_dtype_are_taken_as_bytes(path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with Writer(path, Draft([("w", {}, [("w", "F32", (2, 3))])])) as writer:
        writer.append("w", np.empty((0, 3), np.float32))
        writer.append("w", values)
        writer.finish()
    with HgsFile.open(path) as file:
        assert np.array_equal(file.mapped("w").view(np.float32).reshape(2, 3), values)


def test_a_descriptor_may_become_final_late(sample, path) -> None:
    tensors = {name: descriptor for name, descriptor, _ in sample.draft.tensors}
    finals = {
        name: {**tensors[name], "params": {**tensors[name]["params"], "exponent": -64}}
        for name in ("z.weight", "a.weight")
    }
    size = total_size(sample.draft)
    with Writer(path, sample.draft) as writer:
        for name, data in sample.data.items():
            writer.append(name, data)
        for name, final in finals.items():
            writer.set_descriptor(name, final)
            writer.set_descriptor(name, final)
        writer.finish()
    assert os.path.getsize(path) == size
    with HgsFile.open(path) as file:
        assert {name: file.manifest.tensors[name].descriptor for name in finals} == finals
        assert file.verify() == []


def test_room_for_an_exponent_in_every_tensor(path) -> None:
    """However many tensors: the reserve of one is never another's."""
    names = [f"t{index}" for index in range(200)]
    draft = Draft([(name, {"exponent": 0}, [(name, "U8", (64,))]) for name in names])
    assert len("-64") - len("0") <= SLACK
    with Writer(path, draft) as writer:
        for name in names:
            writer.append(name, bytes(64))
            writer.set_descriptor(name, {"exponent": -64})
        writer.finish()


def test_a_descriptor_that_outgrows_the_header_is_refused_at_once(sample, path) -> None:
    with Writer(path, sample.draft) as writer:
        with pytest.raises(FormatError, match="outgrew") as caught:
            writer.set_descriptor("z.weight", {"text": "x" * 500})
        assert caught.value.code == "LIMIT"
        with pytest.raises(FormatError, match="no such tensor"):
            writer.set_descriptor("y", {})
        with pytest.raises(FormatError, match="whole number"):
            writer.set_descriptor("z.weight", {"x": 0.5})
    with Writer(path, sample.draft, reserve=1000) as writer:
        writer.set_descriptor("z.weight", {"text": "x" * 500})


def test_partial_view_shows_what_was_written(sample, path) -> None:
    with Writer(path, sample.draft) as writer:
        writer.append("norm.weight", sample.data["norm.weight"])
        writer.set_descriptor("z.weight", {"final": 1})
        with writer.open_partial() as file:
            assert file.mapped("norm.weight").tobytes() == sample.data["norm.weight"].tobytes()
            assert file.manifest.tensors["z.weight"].descriptor == {"final": 1}
            assert file.asset("config.json") == sample.draft.assets["config.json"]
            assert file.damage() is None
        for name, data in sample.data.items():
            if name != "norm.weight":
                writer.append(name, data)
        with writer.open_partial() as file:
            assert file.verify() == []
            digest = file.content_digest
        assert writer.finish() == digest


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_leaving_early_leaves_nothing(sample, path, error) -> None:
    with pytest.raises(error), Writer(path, sample.draft) as writer:
        writer.append("norm.weight", sample.data["norm.weight"])
        assert left(path.parent) == [writer.path.name] and writer.path.name.startswith(".model.hgs.part-")
        raise error
    assert left(path.parent) == []
    with Writer(path, sample.draft):
        pass
    assert left(path.parent) == []


def test_an_unfinished_file_is_no_model(sample, path) -> None:
    """What a kill leaves behind, right before the header is written."""
    with Writer(path, sample.draft) as writer:
        for name, data in sample.data.items():
            writer.append(name, data)
        raw = writer.path.read_bytes()
        assert raw[:8] == bytes(8)
        with pytest.raises(FormatError, match="never finished"):
            HgsFile.open(writer.path)
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(raw)


def test_an_incomplete_array_is_not_finished(sample, path) -> None:
    with Writer(path, sample.draft) as writer:
        for name, data in sample.data.items():
            writer.append(name, data[:-1] if name == "a.weight_hgs" else data)
        with pytest.raises(FormatError, match=r"a\.weight_hgs: array is not complete"):
            writer.finish()
    assert left(path.parent) == []


def test_too_much_data_is_refused(sample, path) -> None:
    with Writer(path, sample.draft) as writer:
        writer.append("norm.weight", bytes(20))
        with pytest.raises(FormatError, match="more bytes than the array has"):
            writer.append("norm.weight", bytes(9))
        for name in ("x", "hgs.pad.0", "hgs.damage", "hgs.tail", "z.weight"):
            with pytest.raises(FormatError, match="no such array"):
                writer.append(name, b"x")


def test_an_existing_file_is_kept_without_force(sample, path) -> None:
    path.write_bytes(b"mine")
    with pytest.raises(StorageError, match="--force"):
        Writer(path, sample.draft)
    assert path.read_bytes() == b"mine" and left(path.parent) == ["model.hgs"]
    with Writer(path, sample.draft, force=True):
        assert path.read_bytes() == b"mine"
    assert path.read_bytes() == b"mine"
    sample.write(path, force=True)
    assert HgsFile.open(path).verify() == []


def test_a_file_that_appears_meanwhile_is_kept(sample, path) -> None:
    with pytest.raises(StorageError, match="exists already"), Writer(path, sample.draft) as writer:
        for name, data in sample.data.items():
            writer.append(name, data)
        path.write_bytes(b"mine")
        writer.finish()
    assert path.read_bytes() == b"mine" and left(path.parent) == ["model.hgs"]


def test_the_output_is_never_an_input(sample, path) -> None:
    source = path.with_name("source.safetensors")
    source.write_bytes(b"weights")
    os.symlink(source, path)
    hard = path.with_name("hard.hgs")
    os.link(source, hard)
    for target in (source, path, hard, path.parent / "." / "source.safetensors"):
        with pytest.raises(StorageError, match="one of the inputs"):
            Writer(target, sample.draft, force=True, inputs=[path.with_name("other"), source])
    assert source.read_bytes() == b"weights"


def test_a_link_is_followed(sample, path) -> None:
    folder = path.parent / "deep"
    folder.mkdir()
    (folder / "real.hgs").write_bytes(b"old")
    os.symlink(folder / "real.hgs", path)
    sample.write(path, force=True)
    assert path.is_symlink() and HgsFile.open(folder / "real.hgs").verify() == []


@pytest.mark.parametrize("where", ["", "absent/model.hgs"])
def test_a_target_that_cannot_be_is_refused_at_once(sample, tmp_path, where) -> None:
    with pytest.raises(StorageError):
        Writer(tmp_path / where, sample.draft, force=True)


def test_mode_follows_the_umask_or_the_file_that_is_replaced(sample, path) -> None:
    before = os.umask(0o027)
    try:
        sample.write(path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        sample.write(path, force=True)
        assert path.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


def test_too_little_space_is_said_at_once(path) -> None:
    draft = Draft([(name, {}, [(name, "U8", (1 << 47,))]) for name in ("a", "b")])
    with pytest.raises(StorageError, match="disk is full") as caught:
        Writer(path, draft)
    assert str(total_size(draft)) in str(caught.value) and left(path.parent) == []


def test_a_full_disk_leaves_nothing(path) -> None:
    """A child whose files may not grow that far: the system fails it as a full disk would."""
    child = """
import resource, sys
from higgsx.errors import StorageError
from higgsx.hgs import Draft, Writer
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    with Writer(sys.argv[1], Draft([("a", {}, [("a", "U8", (1 << 21,))])])) as writer:
        writer.append("a", bytes(1 << 21))
        writer.finish()
except StorageError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", child, str(path)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("FULL\n", "") and left(path.parent) == []


@pytest.mark.parametrize("name", ["pwrite", "fsync", "ftruncate", "link", "preadv", "unlink"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_failing_operation_leaves_the_old_file_or_the_new_one(
    sample, path, monkeypatch, name, number
) -> None:
    """The N-th call fails, for every N that a clean run reaches."""
    real, count = getattr(os, name), 0
    for fail_at in range(1, 1000):
        count = 0

        def failing(*args: object, fail_at: int = fail_at, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count == fail_at:
                raise OSError(number, os.strerror(number))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing)
            try:
                sample.write(path)
                error = None
            except HiggsxError as caught:
                error = caught
        if path.exists():
            assert HgsFile.open(path).verify() == []
        elif name != "unlink":
            assert error is not None and left(path.parent) == []
        if number == errno.ENOSPC and name == "pwrite" and error is not None:
            assert error.code == "FULL"
        for file in path.parent.iterdir():
            file.unlink()
        if count < fail_at:
            assert error is None and fail_at > 1
            return
    pytest.fail("never reached the end")


def test_short_writes_are_continued(sample, path, monkeypatch) -> None:
    real = os.pwrite
    digest = sample.write(path)
    raw = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, view, offset: real(fd, view[:37], offset))
        assert sample.write(path, force=True) == digest
    assert path.read_bytes() == raw


def test_what_the_disk_changes_is_found_before_the_rename(sample, path, monkeypatch) -> None:
    real = os.pwrite

    def lying(fd: int, view: memoryview, offset: int) -> int:
        data = bytearray(view)
        if len(data) == sample.data["a.weight_hgs"].nbytes:
            data[5] ^= 1
        return real(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lying)
        with pytest.raises(IntegrityError, match=r"a\.weight"):
            sample.write(path)
    assert left(path.parent) == []


def test_the_header_comes_after_everything_is_on_the_disk(sample, path, monkeypatch) -> None:
    trace: list[str] = []
    pwrite, fsync, link = os.pwrite, os.fsync, os.link
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "pwrite",
            lambda fd, view, at: trace.append("header" if at == 0 else "data") or pwrite(fd, view, at),
        )
        patch.setattr(os, "fsync", lambda fd: trace.append("sync") or fsync(fd))
        patch.setattr(os, "link", lambda *args: trace.append("rename") or link(*args))
        sample.write(path)
    assert trace[-5:] == ["sync", "header", "sync", "rename", "sync"] and set(trace[:-5]) == {"data"}


def test_a_rejected_file_is_put_aside_with_its_reason(sample, path) -> None:
    with Writer(path, sample.draft) as writer:
        for name, data in sample.data.items():
            writer.append(name, data)
        aside = writer.reject({"kl": "9.9"}, "damage far beyond the prediction")
    assert left(path.parent) == ["model.rejected.hgs"] and aside.name == "model.rejected.hgs"
    with HgsFile.open(aside) as file:
        assert file.verify() == []
        assert file.damage() == {"kl": "9.9", "rejected": "damage far beyond the prediction"}


def test_a_damage_record_must_fit(sample, path) -> None:
    fits = {"x": "y" * (32_768 - 8)}
    sample.write(path, fits)
    with HgsFile.open(path) as file:
        assert file.damage() == fits
    with pytest.raises(FormatError, match="too long"):
        sample.write(path, {"x": "y" * (32_768 - 7)}, force=True)
    with pytest.raises(FormatError, match="JSON"):
        sample.write(path, {"x": float("nan")}, force=True)
    assert HgsFile.open(path).damage() == fits


BAD = {
    "name": Draft([("a/b", {}, [("a/b", "U8", (1,))])]),
    "reserved": Draft([("hgs.x", {}, [("hgs.x", "U8", (1,))])]),
    "metadata": Draft([("__metadata__", {}, [("__metadata__", "U8", (1,))])]),
    "twice": Draft([("a", {}, [("a", "U8", (1,))]), ("a", {}, [("a", "U8", (1,))])]),
    "one array of two": Draft([("a", {}, [("a_hgs", "U8", (1,))]), ("a_hgs", {}, [("a_hgs", "U8", (1,))])]),
    "case": Draft([("a", {}, [("a", "U8", (1,))]), ("A", {}, [("A", "U8", (1,))])]),
    "dtype": Draft([("a", {}, [("a", "U4", (1,))])]),
    "empty": Draft([("a", {}, [("a", "U8", (0,))])]),
    "overflow": Draft([("a", {}, [("a", "U8", (1 << 32, 1 << 32))])]),
    "rank": Draft([("a", {}, [("a", "U8", (1,) * 9)])]),
    "asset": Draft([], assets={"../config.json": b""}),
    "tie": Draft([], ties=[["a", "b"]]),
    "float in the plan": Draft([], plan={"x": 0.5}),
    "deep recipe": Draft([], recipe={"x": [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}),
    "long header": Draft([], recipe={"x": "y" * (1 << 26)}),
    "float in a descriptor": Draft([("a", {"x": 1.0}, [("a", "U8", (1,))])]),
    "tuple in the plan": Draft([], plan={"x": (1, 2)}),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_reader_would_take_is_refused_before_anything_is_written(name, path) -> None:
    with pytest.raises(FormatError):
        Writer(path, BAD[name])
    assert left(path.parent) == []


def test_an_empty_model_is_a_file(path) -> None:
    with Writer(path, Draft([])) as writer:
        writer.finish()
    with HgsFile.open(path) as file:
        assert file.verify() == [] and list(file.arrays) == ["hgs.damage", "hgs.tail"]
