"""The other half: manifest, assets, tail, and files of another kind."""

from __future__ import annotations

import struct

from header_cases import Case, add, case, manifest, text


def without(name: str) -> Case:
    """The array's name changed, so that the manifest's is missing."""

    def make(f) -> bytes:
        f.header["other"] = f.header.pop(name)
        return f.build()

    return make


for name in ("e.weight_hgs", "e.weight_hgsr", "l.0.n", "hgs.asset.config.json", "hgs.damage", "hgs.tail"):
    add(f"H53 missing {name}", "MANIFEST", without(name))


@case("H53 one array of two tensors", "MANIFEST")
def _(f) -> bytes:
    f.manifest["tensors"]["l.0.w_hgs"] = {**f.manifest["tensors"]["l.0.n"], "arrays": ["l.0.w_hgs"]}
    return f.build()


def arrays_of(tensor: str, arrays: object) -> Case:
    def make(f) -> bytes:
        f.manifest["tensors"][tensor]["arrays"] = arrays
        return f.build()

    return make


add("H53 array of another tensor", "MANIFEST", arrays_of("l.0.w", ["l.1.w_hgs"]))
add("H53 no array", "MANIFEST", arrays_of("l.0.w", []))
add("H53 array twice", "MANIFEST", arrays_of("l.0.w", ["l.0.w_hgs", "l.0.w_hgs"]))
add("H53 wrong order", "MANIFEST", arrays_of("e.weight", ["e.weight_hgsr", "e.weight_hgs"]))
add("H53 rows alone", "MANIFEST", arrays_of("e.weight", ["e.weight_hgsr"]))
add("H53 not a list", "MANIFEST", arrays_of("l.0.w", "l.0.w_hgs"))
add("H53 a list in a list", "MANIFEST", arrays_of("l.0.w", [["l.0.w_hgs"]]))
add("H53 tie of nothing", "MANIFEST", manifest(ties=[["x", "y"]]))
add("H53 tie of two tensors", "MANIFEST", manifest(ties=[["l.0.w", "l.1.w"]]))
add("H53 tie of one", "MANIFEST", manifest(ties=[["l.0.w"]]))
add("H53 tie cycle", "MANIFEST", manifest(ties=[["l.0.w", "x"], ["x", "l.1.w"]]))
add("H53 tie with a path", "NAME", manifest(ties=[["l.0.w", "../x"]]))
for field in ("tensors", "assets", "plan", "recipe"):
    add(f"H53 {field} is a list", "MANIFEST", manifest(**{field: []}))
for field in ("ties", "extensions", "features"):
    add(f"H53 {field} is an object", "MANIFEST", manifest(**{field: {}}))


def inserted(name: str) -> Case:
    def make(f) -> bytes:
        f.insert_array(name, bytes(64))
        return f.build()

    return make


add("H54 array of no tensor", "MANIFEST", inserted("x"))
add("H54 extension not listed", "MANIFEST", inserted("hgs.ext.x"))
add("H54 space not listed", "MANIFEST", inserted("hgs.space.x"))
add("H54 asset not listed", "MANIFEST", inserted("hgs.asset.vocab.json"))
add("H54 needless padding", "ALIGN", inserted("hgs.pad.9"))


@case("H55 ZIP after the tail", "MANIFEST")
def _(f) -> bytes:
    f.append_array("z", "U8", [64], b"PK\x05\x06".ljust(64, b"\0"))
    return f.build(tail=False)


def _tail(begin: int, data: bytes) -> Case:
    """Bytes of the tail replaced; negative counts from the end."""

    def make(f) -> bytes:
        raw = bytearray(f.original)
        begin_ = len(raw) + begin if begin < 0 else len(raw) - 65_600 + begin
        raw[begin_ : begin_ + len(data)] = data
        return bytes(raw)

    return make


add("H56 fill", "CHECKSUM", _tail(1000, b"x"))
add("H56 first byte of the fill", "CHECKSUM", _tail(0, b"\1"))
add("H56 last byte of the fill", "CHECKSUM", _tail(-113, b"\1"))
add("H56 magic", "CHECKSUM", _tail(-112, b"h"))
add("H56 digest of the header", "CHECKSUM", _tail(-96, bytes(32)))


@case("H56 shorter tail", "MANIFEST")
def _(f) -> bytes:
    begin, end = f.header["hgs.tail"]["data_offsets"]
    f.header["hgs.tail"].update(shape=[65_536], data_offsets=[begin, end - 64])
    del f.data[begin : begin + 64]
    return f.build()


def asset(name: str, **fields: object) -> Case:
    def make(f) -> bytes:
        f.manifest["assets"][name] = {"length": 0, "digest": "0" * 64, **fields}
        return f.build()

    return make


for name in (
    "../../secret",
    "/x",
    "a\\..\\b",
    "a\0",
    "config.json/x",
    "modeling.py",
    "pytorch_model.bin",
    "",
):
    add(f"H63 asset {name!r}", "ASSET", asset(name))
add("H64 asset twice", "DUP", text('\\"config.json\\":{', '\\"config.json\\":{},\\"config.json\\":{'))
add("H64 asset without its array", "MANIFEST", asset("vocab.txt", length=5))
add("H65 length", "ASSET", asset("config.json", length=17))
add("H65 negative length", "ASSET", asset("config.json", length=-1))
add("H65 truth", "ASSET", asset("config.json", length=True))
add("H65 said to be empty", "MANIFEST", asset("config.json", length=0))


def digest_of(tensor: str, digest: object) -> Case:
    def make(f) -> bytes:
        f.manifest["tensors"][tensor]["digest"] = digest
        return f.build()

    return make


for digest in ("0" * 63, "A" * 64, "g" * 64, "sha256:" + "0" * 57, None, 5, "é" * 64):
    add(f"H80 digest {str(digest)[:8]}", "MANIFEST", digest_of("l.0.n", digest))
add("H80 digest of an asset", "MANIFEST", asset("config.json", length=18, digest="0"))


@case("H81 plain safetensors", "MANIFEST")
def _(f) -> bytes:
    del f.header["__metadata__"]
    return f.build()


add(
    "H81 other metadata", "MANIFEST", lambda f: (f.header.update(__metadata__={"format": "pt"}), f.build())[1]
)
add("H81 metadata null", "MANIFEST", lambda f: (f.header.update(__metadata__=None), f.build())[1])
add("H81 manifest of numbers", "MANIFEST", lambda f: f.build(manifest_text="[]"))
add("H81 empty manifest", "JSON", lambda f: f.build(manifest_text=""))
for start in (
    b"GGUF\3\0\0\0",
    b"PK\3\4\x14\0\0\0",
    b"\x80\2\x8a\nl\xfc\x9cF\xf9 j",
    b"<!DOCTYPE html>",
    b"version https://git-lfs",
):
    add(f"H81 {start[:8]!r}", "HDR_SIZE", lambda f, start=start: start + f.original)


@case("H83 not aligned", "ALIGN")
def _(f) -> bytes:
    """The norm's padding given to the norm's neighbour."""
    pad = next(name for name in f.header if name.startswith("hgs.pad.") and f.begin(name) > f.begin("l.0.n"))
    f.header["y"] = f.header.pop(pad)
    return f.build()


@case("H83 data begins unaligned", "ALIGN")
def _(f) -> bytes:
    header = f.text(f.header).encode()
    return fix_length(header + b" " * (-len(header) % 64 + 3)) + bytes(f.data)


def fix_length(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@case("H84 big-endian length", "HDR_SIZE")
def _(f) -> bytes:
    return f.original[:8][::-1] + f.original[8:]
