from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from higgsx.errors import FormatError, SourceError, StorageError, UsageError
from higgsx.io import (
    PartialFile,
    open_for_reading,
    read_at,
    read_bytes,
    read_into,
    read_json,
    read_text,
    require_free_space,
    same_file,
    write_at,
    write_file_atomic,
)
from higgsx.jsontext import parse_json


def test_read_and_write_at_any_place(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    write_at(fd, 5, b"hello")
    write_at(fd, 2, memoryview(b"abc"))
    write_at(fd, 0, b"")
    assert read_at(fd, 0, 10) == b"\0\0abchello"
    buffer = bytearray(4)
    read_into(fd, 3, memoryview(buffer))
    assert buffer == b"bche"
    with pytest.raises(StorageError, match="ends too early, got 10 bytes, expected 11"):
        read_at(fd, 8, 3)
    os.close(fd)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x").write_bytes(bytes(range(200)))
    fd = open_for_reading(tmp_path / "x")
    real = os.preadv
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda fd, views, at: real(fd, [views[0][:7]], at))
        assert read_at(fd, 10, 100) == bytes(range(10, 110))
    os.close(fd)


def test_a_system_without_pread_works_too(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr(os, "pwrite")
    write_file_atomic(tmp_path / "x", b"0123456789")
    fd = open_for_reading(tmp_path / "x")
    assert read_at(fd, 3, 4) == b"3456"
    os.close(fd)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "loop", tmp_path / "absent", os.devnull):
        found: list[Exception] = []

        def attempt(path=path, found=found) -> None:
            try:
                open_for_reading(path)
            except StorageError as error:
                found.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(10)
        assert len(found) == 1, path


def test_same_file_sees_through_names(tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.write_bytes(b"")
    os.symlink(one, tmp_path / "soft")
    os.link(one, tmp_path / "hard")
    (tmp_path / "copy").write_bytes(b"")
    assert all(same_file(one, tmp_path / name) for name in ("one", "soft", "hard", "./one"))
    assert not same_file(one, tmp_path / "copy") and not same_file(one, tmp_path / "absent")
    assert not same_file(tmp_path / "absent", tmp_path / "absent")


def test_atomic_write_replaces_whole_files(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.json"
    write_file_atomic(path, b"old")
    write_file_atomic(path, bytearray(b"new and longer"))
    assert path.read_bytes() == b"new and longer"

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            write_file_atomic(path, b"never")
    assert path.read_bytes() == b"new and longer" and os.listdir(tmp_path) == ["x.json"]


def test_a_leftover_partial_file_is_in_nobodys_way(tmp_path: Path) -> None:
    target = tmp_path / "m.hgs"
    stale = tmp_path / f".m.hgs.part-{os.getpid()}"
    stale.write_bytes(b"left by a killed run")
    partial = PartialFile(target, size=3)
    assert partial.path != stale
    partial.write_at(0, b"abc")
    partial.sync()
    partial.commit()
    partial.discard()
    assert target.read_bytes() == b"abc" and stale.read_bytes() == b"left by a killed run"


def test_a_partial_file_never_follows_a_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, tmp_path / f".m.hgs.part-{os.getpid()}")
    partial = PartialFile(tmp_path / "m.hgs", size=8)
    partial.write_at(0, b"xxxxxxxx")
    partial.discard()
    assert victim.read_bytes() == b"precious"


def test_a_file_system_without_links(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for expected in (b"first", b"first"):
        partial = PartialFile(tmp_path / "x", size=5) if not (tmp_path / "x").exists() else None
        if partial is not None:
            partial.write_at(0, b"first")
            partial.commit()
        assert (tmp_path / "x").read_bytes() == expected
    partial = PartialFile(tmp_path / "y", size=1)
    (tmp_path / "y").write_bytes(b"mine")
    with pytest.raises(StorageError, match="exists already"):
        partial.commit()
    partial.discard()
    assert (tmp_path / "y").read_bytes() == b"mine" and sorted(os.listdir(tmp_path)) == ["x", "y"]


def test_free_space(tmp_path: Path) -> None:
    require_free_space(tmp_path, 1)
    with pytest.raises(StorageError, match=str(1 << 60)) as caught:
        require_free_space(tmp_path, 1 << 60)
    assert caught.value.code == "FULL"


def test_text_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("ä{}".encode())
    assert read_text(path) == "ä{}" and read_bytes(path, limit=4) == "ä{}".encode()
    with pytest.raises(StorageError, match="too long"):
        read_bytes(path, limit=3)
    path.write_bytes(b"abc\xff")
    with pytest.raises(SourceError, match="byte 3"):
        read_text(path)
    with pytest.raises(UsageError):
        read_json(path, error=UsageError)


def test_json_is_ordinary_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": [1, -2.5e3, true, null], "ä": "\\ud83d\\ude00"}', encoding="utf-8")
    assert read_json(path) == {"a": [1, -2500.0, True, None], "ä": "😀"}


@pytest.mark.parametrize(
    "text, code",
    [
        ('{"a":1,"b":{"c":1,"c":2}}', "DUP"),
        ('{"a":NaN}', "JSON"),
        ("[Infinity]", "JSON"),
        ("[-1e999]", "JSON"),
        ("[1" + "0" * 5000 + "]", "JSON"),
        ("[18446744073709551616]", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[" * 65 + "]" * 65, "JSON"),
        ('{"a":' * 65 + "1" + "}" * 65, "JSON"),
        ('["\\ud800"]', "UTF8"),
        ('{"\\udfff":1}', "UTF8"),
        ("", "JSON"),
        ("[1,]", "JSON"),
        ("\ufeff{}", "JSON"),
        ('["\n"]', "JSON"),
        ("[1] 2", "JSON"),
    ],
)
def test_traps_of_json(text: str, code: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text, where="here", error=FormatError)
    assert (
        caught.value.code == code and str(caught.value).startswith("here: ") and len(str(caught.value)) < 300
    )


def test_depth_counts_brackets_outside_of_words_alone() -> None:
    assert parse_json("[[1]]", depth=2) == [[1]]
    with pytest.raises(SourceError):
        parse_json("[[[1]]]", depth=2)
    with pytest.raises(SourceError):
        parse_json('{"a":{"b":[]}}', depth=2)
    for text in (r'["[[[[\"[[[", "\\", "[[\\\"{{"]', r'["\\\\","]]]"]', r'["\"","[[","\\\""]'):
        assert isinstance(parse_json(text, depth=1), list)


def test_whole_numbers_alone() -> None:
    assert parse_json("[0,-5,9007199254740992]", floats=False, largest=1 << 53) == [0, -5, 1 << 53]
    for text in ("[1.0]", "[1e2]", "[9007199254740993]", "[-9007199254740993]"):
        with pytest.raises(SourceError):
            parse_json(text, floats=False, largest=1 << 53)
