"""A tiny valid file, and a workshop that changes it and makes its digests fit again."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from higgsx.hgs import Draft, Writer

ALIGN = 64
RECORD = 16 + 3 * 32
DAMAGE = {"unit": "nats", "kl": "0.0123"}


def descriptor(shape: list[int], codec: str, **params: object) -> dict[str, object]:
    return {
        "dtype": "BF16",
        "shape": shape,
        "axes": "oi",
        "codec": codec,
        "params": params,
        "transform": None,
    }


def tiny_draft() -> tuple[Draft, dict[str, bytes]]:
    """Two layers, three compressed tensors, a norm, two assets; and the bytes of every array."""
    uniform = {"bits": 4, "block": 32, "scale": "u8", "zero": "none", "centre": 15, "exponent": 0}
    tensors = [
        ("e.weight", [20, 40], uniform, {"e.weight_hgs": (2, 100), "e.weight_hgsr": (2, 32)}),
        ("l.0.w", [16, 32], uniform, {"l.0.w_hgs": (1, 64)}),
        ("l.0.n", [5], {"dtype": "F32"}, {"l.0.n": (5,)}),
        ("l.1.w", [16, 32], uniform, {"l.1.w_hgs": (1, 64)}),
    ]
    listed = [
        (
            name,
            descriptor(shape, "uniform" if "bits" in params else "dense", **params),
            [(array, params.get("dtype", "U8"), size) for array, size in arrays.items()],
        )
        for name, shape, params, arrays in tensors
    ]
    assets = {"tokenizer.json": b'{"model":{}}', "config.json": b'{"model_type":"x"}'}
    plan = {"groups": [["e.weight", "4.25"]]}
    draft = Draft(listed, [["e.weight", "h.weight"]], assets, plan, {"method": "rtn"})
    data = {}
    for _, _, arrays in listed:
        for name, dtype, shape in arrays:
            count = {"U8": 1, "F32": 4}[dtype]
            for size in shape:
                count *= size
            data[name] = bytes((7 * byte + sum(name.encode())) % 256 for byte in range(count))
    return draft, data


class Forge:
    """`header` and `manifest` are the parsed JSON, `data` the arrays; change them, then `build`."""

    def __init__(self, raw: bytes) -> None:
        (length,) = struct.unpack("<Q", raw[:8])
        self.original = raw
        self.header: dict = json.loads(raw[8 : 8 + length])
        self.manifest: dict = json.loads(self.header["__metadata__"]["hgs"])
        self.data = bytearray(raw[8 + length :])

    @staticmethod
    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    def begin(self, name: str) -> int:
        return self.header[name]["data_offsets"][0]

    def append_array(self, name: str, dtype: str, shape: list[int], data: bytes) -> None:
        """At the end, behind the tail."""
        self.header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(self.data), len(self.data) + len(data)],
        }
        self.data += data

    def insert_array(self, name: str, data: bytes, before: str = "hgs.damage") -> None:
        """uint8 `[n]`, n a multiple of 64 where alignment shall stay."""
        begin = self.begin(before)
        for entry in self.header.values():
            if "data_offsets" in entry and entry["data_offsets"][0] >= begin:
                entry["data_offsets"] = [offset + len(data) for offset in entry["data_offsets"]]
        self.header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, begin + len(data)]}
        self.data[begin:begin] = data

    def build(
        self,
        *,
        manifest_text: str | None = None,
        edit: Callable[[str], str] | None = None,
        tail: bool = True,
    ) -> bytes:
        """The file with length and digests made to fit; `edit` changes the header's text last."""
        text = self.text(self.manifest) if manifest_text is None else manifest_text
        if isinstance(self.header.get("__metadata__"), dict) and "hgs" in self.header["__metadata__"]:
            self.header["__metadata__"]["hgs"] = text
        header = self.text(self.header)
        return self.assemble((edit(header) if edit else header).encode("utf-8", "surrogatepass"), tail=tail)

    def assemble(self, header: bytes, *, tail: bool = True) -> bytes:
        length = -(-(8 + len(header)) // ALIGN) * ALIGN - 8
        raw = struct.pack("<Q", length) + header.ljust(length) + bytes(self.data)
        return fix_tail(raw) if tail else raw


def fix_tail(raw: bytes) -> bytes:
    """The digests in the tail made to fit whatever stands before, as far as the header can be understood."""
    (length,) = struct.unpack("<Q", raw[:8])
    head = raw[: 8 + length]
    try:
        header = json.loads(head[8:])
        spans = sorted(
            tuple(entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"
        )
        digests = [blake3(raw[len(head) + begin : len(head) + end]).digest() for begin, end in spans[:-1]]
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        return raw
    everything = blake3(head + b"".join(digests)).digest()
    damage = digests[-1] if digests else blake3().digest()
    return raw[:-96] + blake3(head).digest() + damage + everything


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tiny") / "tiny.hgs"
    draft, data = tiny_draft()
    with Writer(path, draft) as writer:
        for name, content in data.items():
            writer.append(name, content)
        writer.finish(DAMAGE)
    return path.read_bytes()


@pytest.fixture
def forge(tiny: bytes) -> Forge:
    return Forge(tiny)


@pytest.fixture
def store(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(raw: bytes) -> Path:
        path = tmp_path / "hostile.hgs"
        path.write_bytes(raw)
        return path

    return write
