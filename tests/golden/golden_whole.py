"""Golden files that are about the whole file: names, ties, assets, the damage record, JSON, extensions."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from golden_parts import Tensors, packed, stored, stream, write

from higgsx.codecs.dense import Dense
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.hgs import HgsFile
from higgsx.hgs.manifest import ASSETS

_SMALL = Descriptor("BF16", (2, 40), "oi", Uniform.symmetric(4, 32))


def _few(*names: str) -> Tensors:
    return {name: (_SMALL, packed(_SMALL, name)) for name in names}


def names(path: Path) -> None:
    """Names of every allowed character and length, not sorted; ties in which any place is the stored one."""
    longest = "n" * 250
    tensors = _few("z.weight", "0-_.", "B.Weight", "a", longest, "A.b_hgs")
    words = stream("names", 7 * 4).view("<u4") & 0x3FFFFFFF
    tensors["norm"] = Descriptor("F32", (7,), "", Dense("F32")), {"": stored("F32", words)}
    ties = [["z.weight", "y.weight"], ["head.weight", "a", "lm.weight"], ["x.norm", "norm"]]
    write(path, tensors, ties=ties)


def assets(path: Path) -> None:
    """Every name that an asset may have; lengths 0, 1 and around 64; bytes that are no text."""
    lengths = (0, 1, 63, 64, 65, 130)
    content = {name: stream(name, lengths[n % 6]).tobytes() for n, name in enumerate(sorted(ASSETS))}
    content["config.json"] = '{"name":"Größe","steps":1.5e-3}\n'.encode()
    write(path, _few("w"), assets=content)


def empty(path: Path) -> None:
    """Nothing but the frame."""
    write(path, {})


def damage(path: Path) -> None:
    """A damage record with fractions that fills its 32,768 bytes to the last."""
    record: dict[str, object] = {"unit": "nats", "kl": {"mean": 0.0625, "largest": 1.5e-7}, "text": "ü"}
    rest = 32_768 - len(json.dumps({**record, "fill": ""}, sort_keys=True, separators=(",", ":")))
    write(path, _few("w"), damage={**record, "fill": "x" * rest})


def manifest(path: Path) -> None:
    """Plan and recipe with whatever canonical JSON can say; a header with more spaces than text."""
    deep: object = "end"
    for _ in range(7):
        deep = {"in": [deep]}
    controls = "".join(map(chr, range(32))) + '"\\/\x7f\x80\u2028'
    plan = {
        "": [[], {}, None, True, False, 0, -1, 1 << 53, -(1 << 53)],
        "deep": deep,
        "text": controls + "\ufffd\uffff\U00010000\U0010ffff\U0001f9ca",
        "\u00e4": "sorted by code point",
        "\U0001f9ca": {"Z": 0, "a": 1, "_": 2, "\uffff": 3},
    }
    write(path, _few("w"), plan=plan, recipe={"note": "no dates, no paths"}, reserve=20_000)


def extension(path: Path) -> None:
    """Two extensions that no reader knows, neither required. Today's writer makes none: added by hand."""
    write(path, _few("w", "v"), assets={"NOTICE": b"n"}, damage={"kl": 0.5})
    with HgsFile.open(path) as file:
        told = json.loads(file.manifest.to_text())
        arrays = {
            name: (array.dtype, list(array.shape), file.read(name))
            for name, array in file.arrays.items()
            if not array.is_pad and name != "hgs.tail"
        }
    record = arrays.pop("hgs.damage")
    for name, parts in (
        ("later.signature", [("U8", [70])]),
        ("later.table", [("F16", [3, 5]), ("I64", [2])]),
    ):
        own = {}
        for index, (dtype, shape) in enumerate(parts):
            count = {"U8": 1, "F16": 2, "I64": 8}[dtype]
            for size in shape:
                count *= size
            own[f"hgs.ext.{name}.{index}"] = (dtype, shape, stream(f"{name} {index}", count).tobytes())
        listed = [[key, *value[:2], blake3(value[2]).hexdigest()] for key, value in own.items()]
        bound = canonical({"name": name, "descriptor": None, "arrays": listed})
        digest = blake3(bound.encode()).hexdigest()
        told["extensions"].append({"name": name, "required": False, "arrays": list(own), "digest": digest})
        arrays |= own
    path.write_bytes(assemble(told, {**arrays, "hgs.damage": record}))


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def assemble(told: dict[str, object], arrays: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A whole file after docs/format.md, sections 2 and 5. arrays: all but padding and tail, in order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", "hgs": canonical(told)}}
    body, digests = bytearray(), []

    def add(name: str, dtype: str, shape: list[int], data: bytes) -> None:
        header[name] = {"data_offsets": [len(body), len(body) + len(data)], "dtype": dtype, "shape": shape}
        body.extend(data)
        digests.append(blake3(data).digest())

    pads = 0
    for name, (dtype, shape, data) in {**arrays, "hgs.tail": ("U8", [65_600], bytes(65_600))}.items():
        gap = -len(body) % 64
        if gap:
            add(f"hgs.pad.{pads}", "U8", [gap], bytes(gap))
            pads += 1
        add(name, dtype, shape, data)
    text = canonical(header).encode()
    length = -(-(8 + len(text)) // 64) * 64 - 8
    head = struct.pack("<Q", length) + text.ljust(length)
    everything = blake3(head + b"".join(digests[:-1])).digest()
    record = b"HIGGS-X hgs tail" + blake3(head).digest() + digests[-2] + everything
    return head + bytes(body[: -len(record)]) + record


CONTAINER_CASES: dict[str, Callable[[Path], None]] = {
    "names": names,
    "assets": assets,
    "empty": empty,
    "damage": damage,
    "manifest": manifest,
    "extension": extension,
}
