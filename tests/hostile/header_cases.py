"""Files that someone made to deceive the reader, by the number of the rule in the list that they follow.

Digests and length fit wherever that is possible, so that the rule itself is reached. Here: the header.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

CAP = 1 << 26
Case = Callable[..., bytes]
CASES: dict[str, tuple[str, Case]] = {}


def case(name: str, code: str) -> Callable[[Case], Case]:
    def note(make: Case) -> Case:
        assert name not in CASES
        CASES[name] = code, make
        return make

    return note


def entry(name: str, **fields: object) -> Case:
    """Fields of one array's entry replaced."""

    def make(f) -> bytes:
        f.header[name].update(fields)
        return f.build()

    return make


def text(old: str, new: str, count: int = 1) -> Case:
    """A piece of the header's text replaced."""

    def edit(header: str) -> str:
        assert old in header, old
        return header.replace(old, new, count)

    return lambda f: f.build(edit=edit)


def manifest(**fields: object) -> Case:
    def make(f) -> bytes:
        f.manifest.update(fields)
        return f.build()

    return make


def renamed(name: str) -> Case:
    """A tensor under another name, everywhere."""

    def make(f) -> bytes:
        f.header[name] = f.header.pop("l.0.n")
        f.manifest["tensors"][name] = {**f.manifest["tensors"].pop("l.0.n"), "arrays": [name]}
        return f.build()

    return make


def add(name: str, code: str, make: Case) -> None:
    case(name, code)(make)


def length(value: int, file_size: int | None = None) -> Case:
    return lambda f: struct.pack("<Q", value) + f.original[8:file_size]


add("H01 empty", "TRUNC", lambda f: b"")
add("H01 one byte", "TRUNC", lambda f: b"\x10")
add("H01 seven bytes", "TRUNC", lambda f: f.original[:7])
add("H02 length 0", "HDR_SIZE", length(0))
add("H02 length 1", "HDR_SIZE", length(1))
add("H03 one past the end", "TRUNC", lambda f: struct.pack("<Q", len(f.original) - 7) + f.original[8:])
add("H04 2^64-1", "HDR_SIZE", length((1 << 64) - 1))
add("H04 2^63", "HDR_SIZE", length(1 << 63))
add("H05 cap and one", "HDR_SIZE", length(CAP + 1))
add("H05 cap, short file", "TRUNC", length(CAP))
add("H06 ZIP magic", "HDR_SIZE", length(67_324_752))


@case("H07 too many arrays", "LIMIT")
def _(f) -> bytes:
    entries = (
        f'"a{index:06}":{{"data_offsets":[{index},{index + 1}],"dtype":"U8","shape":[1]}}'
        for index in range((1 << 18) + 1)
    )
    metadata = '{"__metadata__":{"format":"pt","hgs":"{}"},'
    return f.assemble((metadata + ",".join(entries) + "}").encode(), tail=False)


add("H08 rank 9", "LIMIT", entry("l.0.n", shape=[1] * 8 + [5]))
add("H08 name of 256", "NAME", renamed("n" * 256))
ENTRY = '"l.0.n":{"data_offsets":'
add("H09 same name, same offsets", "DUP", lambda f: f.build(edit=lambda h: _twice(h, f, 0)))
add("H10 same name, other offsets", "DUP", lambda f: f.build(edit=lambda h: _twice(h, f, 64)))
add("H11 metadata twice", "DUP", lambda f: f.build(edit=lambda h: '{"__metadata__":{"format":"pt"},' + h[1:]))
add("H12 manifest twice", "DUP", text('"format":"pt",', '"format":"pt","hgs":"{}",'))
add("H12 format twice", "DUP", text('"format":"pt",', '"format":"pt","format":"pt",'))
add(
    "H13 duplicate deep in the manifest",
    "DUP",
    text('\\"method\\":\\"rtn\\"', '\\"method\\":\\"rtn\\",\\"method\\":\\"x\\"'),
)
add("H13 duplicate parameter", "DUP", text('\\"bits\\":4', '\\"bits\\":4,\\"bits\\":8'))


def _twice(header: str, f, shift: int) -> str:
    entry = dict(f.header["l.0.n"])
    entry["data_offsets"] = [offset + shift for offset in entry["data_offsets"]]
    return header[:-1] + ',"l.0.n":' + f.text(entry) + "}"


add("H14 deep nesting", "HDR_START", lambda f: f.assemble(b"[" * 100_000))
add("H14 deep nesting in an object", "JSON", lambda f: f.assemble(b'{"a":' + b"[" * 100_000))
add("H14 balanced", "JSON", lambda f: f.assemble(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"))
add("H14 objects", "JSON", lambda f: f.assemble(b'{"a":' * 30_000 + b"1" + b"}" * 30_000))
add("H14 plan nested 17 deep", "JSON", manifest(plan={"x": json.loads("[" * 16 + "]" * 16)}))
for number in ("NaN", "Infinity", "-Infinity", "1e400", "1e2", "0.0", "-0", "01", "1" * 5000, "+1", "0x10"):
    add(f"H15 offset {number[:10]}", "JSON", text('"data_offsets":[0,', f'"data_offsets":[{number},'))
    add(f"H15 plan {number[:10]}", "JSON", text('\\"version\\":0', f'\\"version\\":{number}'))
add("H16 beyond 2^53 in the manifest", "JSON", manifest(recipe={"n": (1 << 53) + 1}))
add("H17 shape of truth", "SHAPE", entry("l.0.w_hgs", shape=[True, 64]))
for offsets in ([-64, 0], ["0", "64"], None, [0], [0, 64, 128], [], {"a": 1}, [True, 64], [[0], 64]):
    add(f"H18 offsets {offsets}", "OFFSET", entry("e.weight_hgs", data_offsets=offsets))
add("H18 fractions", "JSON", entry("e.weight_hgs", data_offsets=[0.0, 200.0]))
add("H19 lone surrogate", "UTF8", text('"l.0.n":{', '"\\ud800":{'))
add("H19 lone surrogate in the manifest", "UTF8", text('\\"rtn\\"', '\\"\\\\udc00\\"'))
add(
    "H19 invalid UTF-8",
    "UTF8",
    lambda f: f.assemble(f.text(f.header).encode().replace(b"l.0.n", b"l.\xff.n")),
)
add("H20 byte order mark", "HDR_START", lambda f: f.build(edit=lambda h: "\ufeff" + h))
add("H20 leading space", "HDR_START", lambda f: f.build(edit=lambda h: " " + h))
add("H20 leading newline", "HDR_START", lambda f: f.build(edit=lambda h: "\n" + h))
for junk in ("\0", "\t", "\n", "x", "{}", "\r"):
    add(f"H21 after the JSON {junk!r}", "JSON", lambda f, junk=junk: f.build(edit=lambda h: h + junk))
add("H21 space inside", "JSON", text('"format":"pt",', '"format": "pt",'))
add("H21 needless escape", "JSON", text('"pt"', '"\\u0070t"'))


@case("H21 unsorted", "JSON")
def _(f) -> bytes:
    items = list(f.header.items())
    return f.build(edit=lambda h: json.dumps(dict(reversed(items)), separators=(",", ":")))


@case("H22 hole", "OFFSET")
def _(f) -> bytes:
    f.insert_array("x", bytes(64))
    del f.header["x"]
    return f.build()


@case("H23 overlap by one byte", "OFFSET")
def _(f) -> bytes:
    begin, end = f.header["l.0.w_hgs"]["data_offsets"]
    f.header["l.0.w_hgs"].update(shape=[1, 65], data_offsets=[begin, end + 1])
    return f.build()


@case("H23 alias", "OFFSET")
def _(f) -> bytes:
    f.header["l.1.w_hgs"]["data_offsets"] = f.header["l.0.w_hgs"]["data_offsets"]
    return f.build()


@case("H24 first array begins at 64", "OFFSET")
def _(f) -> bytes:
    f.insert_array("x", bytes(64), before="e.weight_hgs")
    del f.header["x"]
    return f.build()


add("H25 ends before it begins", "OFFSET", entry("l.0.w_hgs", data_offsets=[640, 576]))
add("H26 one byte after the end", "TRAILING", lambda f: f.original + b"\0")
add("H26 much after the end", "TRAILING", lambda f: f.original + bytes(1 << 20))
add("H27 one byte missing", "TRUNC", lambda f: f.original[:-1])


@case("H28 zero size", "SHAPE")
def _(f) -> bytes:
    f.header["z"] = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return f.build()


@case("H29 many of zero size", "SHAPE")
def _(f) -> bytes:
    for index in range(10_000):
        f.header[f"z{index}"] = {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [64, 64]}
    return f.build()


add("H30 wraps to 0", "OVERFLOW", entry("l.0.n", shape=[1 << 32, 1 << 32]))
add("H31 wraps", "OVERFLOW", entry("l.0.n", shape=[1 << 61, 8]))
add("H31 2^63", "OVERFLOW", entry("l.0.n", shape=[(1 << 63) - 1, 2]))
add("H31 no data", "OVERFLOW", entry("l.0.n", shape=[1 << 61, 8], data_offsets=[0, 0]))


@case("H32 ends sum to 2^64", "OVERFLOW")
def _(f) -> bytes:
    for index in range(8):
        f.header[f"s{index}"] = {
            "dtype": "U8",
            "shape": [1 << 61],
            "data_offsets": [index << 61, (index + 1 << 61) - 1],
        }
    return f.build(tail=False)


add("H33 a zero dimension", "SHAPE", entry("l.0.n", shape=[4, 0]))
add("H34 2^53+1", "OVERFLOW", entry("l.0.n", shape=[(1 << 53) + 1]))
add("H34 negative", "SHAPE", entry("l.0.n", shape=[-1]))
add("H34 a word", "SHAPE", entry("l.0.n", shape=["5"]))
add("H34 no list", "SHAPE", entry("l.0.n", shape=5))
add("H35 begin near 2^64", "OFFSET", entry("l.0.w_hgs", data_offsets=[(1 << 64) - 64, 64]))
add("H35 beyond 2^53", "OFFSET", entry("l.0.w_hgs", data_offsets=[1 << 53, (1 << 53) + 64]))
add("H36 half bytes", "DTYPE", entry("l.0.n", dtype="F4", shape=[5]))
add("H37 little data for much shape", "SIZE", entry("l.0.n", shape=[1000, 1000]))
add("H38 one element less", "SIZE", entry("l.0.n", shape=[4]))
for dtype in ("Q4_K", "f32", 7, None, ["F32"], "F8_E4M3", "U64"):
    add(f"H45 dtype {dtype}", "DTYPE", entry("l.0.n", dtype=dtype))
for version in (1, 1 << 31, "0", None, False, -1, [0]):
    add(f"H47 version {version!r}", "VERSION", manifest(version=version))


@case("H47 no version", "VERSION")
def _(f) -> bytes:
    del f.manifest["version"]
    return f.build()


EXTENSION = {"name": "adapter", "required": True, "arrays": ["hgs.ext.a"], "digest": "0" * 64}
add("H48 required feature", "FEATURE", manifest(features=["stages"]))
add("H48 required extension", "FEATURE", manifest(extensions=[EXTENSION]))
add("H48 truth as a word", "MANIFEST", manifest(extensions=[{**EXTENSION, "required": "no"}]))
add("H48 extension without its array", "MANIFEST", manifest(extensions=[{**EXTENSION, "required": False}]))
add(
    "H48 extension takes a tensor",
    "MANIFEST",
    manifest(extensions=[{**EXTENSION, "required": False, "arrays": ["l.0.n"]}]),
)
add("H49 unknown field", "JSON", entry("l.0.n", strides=[1]))
add("H49 unknown field of the manifest", "MANIFEST", manifest(url="x"))
add("H49 unknown metadata", "MANIFEST", text('"format":"pt",', '"format":"pt","gguf":"",'))
for name in ("", "a\0b", "../x", "a/b", "a\r\nb", "a\x1b[31mb", "a\u202eb", "__x", "a b", "ä"):
    add(f"H50 name {name!r}", "NAME", renamed(name))
add("H50 reserved name", "NAME", renamed("hgs.x"))


@case("H51 an array called __metadata__", "MANIFEST")
def _(f) -> bytes:
    f.header["__metadata__"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    return f.build()


@case("H52 upper and lower case", "DUP")
def _(f) -> bytes:
    f.insert_array("L.0.N", bytes(64))
    return f.build()
