"""Files that someone made to deceive the reader. Each is refused with the code of the rule that it breaks."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import manifest_cases  # noqa: F401 (adds its half)
import pytest
from blake3 import blake3
from header_cases import CASES, EXTENSION

from higgsx.errors import FormatError, IntegrityError
from higgsx.hgs import HgsFile


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str, forge, store) -> None:
    code, make = CASES[name]
    raw = make(forge)
    with pytest.raises(FormatError) as caught:
        HgsFile.open(store(raw)).close()
    message = str(caught.value)
    assert caught.value.code == code, message
    assert message.isprintable() and "hostile.hgs" in message
    assert isinstance(caught.value, IntegrityError) == (code == "CHECKSUM")


def test_the_base_file_is_valid(forge, store) -> None:
    """Or every refusal above would prove nothing."""
    assert forge.build() == forge.original
    with HgsFile.open(store(forge.build())) as file:
        assert file.verify() == []


@pytest.mark.parametrize(
    "start, hint",
    [
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"PK\3\4\x14\0\0\0", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<html><body>", "web page"),
        (bytes(8), "never finished"),
        (struct.pack(">Q", 5000), "big-endian"),
    ],
)
def test_a_hint_says_what_it_is(start: bytes, hint: str, store) -> None:
    with pytest.raises(FormatError, match=hint):
        HgsFile.open(store(start.ljust(100, b"x")))


def test_unknown_optional_extension_is_ignored_but_verified(forge, store) -> None:
    content = bytes(range(64))
    listed = [["hgs.ext.a", "U8", [64], blake3(content).hexdigest()]]
    digest = blake3(
        forge.text({"name": "adapter", "descriptor": None, "arrays": listed}).encode()
    ).hexdigest()
    forge.manifest["extensions"] = [{**EXTENSION, "required": False, "digest": digest}]
    forge.insert_array("hgs.ext.a", content)
    with HgsFile.open(store(forge.build())) as file:
        assert file.verify() == []
    forge.data[forge.begin("hgs.ext.a")] ^= 1
    with HgsFile.open(store(forge.build())) as file:
        assert file.verify() == ["adapter"]


def test_the_second_reader_refuses_all_of_this_too(forge, store) -> None:
    script = Path(__file__).parents[2] / "docs" / "reader" / "hgs_reader.py"
    spec = importlib.util.spec_from_file_location("hgs_reader", script)
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    accepted = []
    for name, (code, make) in CASES.items():
        if code == "LIMIT" and "arrays" in name:
            continue  # slow
        path = store(make(type(forge)(forge.original)))
        try:
            reader.File(path)
            accepted.append(name)
        except ValueError:
            pass
    assert accepted == []
