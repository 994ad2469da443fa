"""A second reader of .hgs files, after docs/format.md alone: NumPy and blake3, nothing of HIGGS-X.

    python hgs_reader.py FILE            list what is inside
    python hgs_reader.py FILE --verify   check every digest and decode every tensor

It is here to be read and to prove the specification: it decodes bit for bit what the package decodes, slowly.
Anything that is not exactly a valid file raises ValueError.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "BOOL": "u1"}
DTYPES |= {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
AXES = {"": None, "oi": 2, "io": 2, "eoi": 3, "eio": 3, "oik": 3, "oikk": 4}
PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 8: (8,)}
SCALE_BYTES, ZERO_BYTES = {"u8": 1, "f16": 2}, {"none": 0, "u8": 1, "f16": 2, "min": 2}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
QUARTERS = np.array([1.0, 1.1892071, 1.4142135, 1.6817929], np.float32)
HALVES = {  # the positive levels of tables that are symmetric
    "gauss4": [36, 120],
    "gauss8": [13, 40, 71, 114],
    "gauss16": [5, 15, 25, 36, 48, 62, 79, 104],
    "gauss32": [3, 8, 13, 18, 23, 28, 34, 40, 46, 53, 60, 68, 77, 88, 102, 124],
}
TABLES = {name: [-level for level in reversed(half)] + half for name, half in HALVES.items()}
TABLES["nf4"] = [-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127]
TABLES["iq4"] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
FIXED = {"hgs.damage": 32_768, "hgs.tail": 65_600}
MAGIC = b"HIGGS-X hgs tail"
NAME = re.compile(r"(?!__)[A-Za-z0-9_.\-]{1,255}")
ASSETS = """config.json generation_config.json tokenizer.json tokenizer_config.json tokenizer.model
    vocab.json vocab.txt merges.txt added_tokens.json special_tokens_map.json chat_template.jinja
    chat_template.json spiece.model sentencepiece.bpe.model sentencepiece.model spm.model bpe.model
    bpe.codes source.spm target.spm dict.txt encoder.json vocab.bpe tekken.json normalizer.json
    processor_config.json preprocessor_config.json video_preprocessor_config.json modules.json
    pooling_config.json NOTICE sentence_bert_config.json config_sentence_transformers.json README.md LICENSE
    LICENSE.md LICENSE.txt USE_POLICY.md"""


def need(condition: object, what: str, got: object = "") -> None:
    if not condition:
        raise ValueError(f"{what} {ascii(got)[:120]}")


def fields(data: Any, names: str) -> list[Any]:
    """The values of an object that has exactly these keys."""
    need(isinstance(data, dict) and sorted(data) == sorted(names.split()), f"fields {names}:", data)
    return [data[name] for name in names.split()]


def is_int(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def canonical(value: object) -> str:
    """Section 1: the one text of a JSON value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(depth, inside), default=0)


def parse(text: str, largest: int) -> Any:
    """Exactly what `canonical` writes, whole numbers alone, nesting of at most 16."""

    def whole(digits: str) -> int:
        need(len(digits) < 25 and abs(int(digits)) <= largest, "number", digits)
        return int(digits)

    def unique(items: list[tuple[str, object]]) -> dict[str, object]:
        need(len(dict(items)) == len(items), "a key stands twice in", items)
        return dict(items)

    try:
        hooks = {"parse_int": whole, "parse_float": whole, "parse_constant": whole}
        value = json.loads(text, object_pairs_hook=unique, **hooks)
        need(depth(value) <= 16 and canonical(value) == text, "JSON is not canonical or too deep")
    except RecursionError:
        raise ValueError("nested too deep") from None
    json.dumps(value, ensure_ascii=False).encode()  # refuses half characters
    return value


class File:
    def __init__(self, path: str | Path) -> None:
        try:
            self._open(path)
        except (TypeError, AttributeError):
            raise ValueError("a field of the wrong kind") from None

    def _open(self, path: str | Path) -> None:
        need(Path(path).stat().st_size >= 8, "cut short")
        self.raw = np.memmap(path, np.uint8, "r")
        length = int(self.raw[:8].view("<u8")[0])
        valid = 2 <= length <= min(1 << 26, len(self.raw) - 8) and length % 64 == 56
        need(valid, "length of the header", length)
        self.head = self.raw[: 8 + length].tobytes()
        need(self.head[8:9] == b"{", "header does not begin with {")
        header = parse(self.head[8:].decode("ascii").rstrip(" "), (1 << 64) - 1)
        form, self.text = fields(header.pop("__metadata__", None), "format hgs")
        need(form == "pt" and isinstance(self.text, str), "metadata", form)
        self.content_digest = blake3(self.text.encode()).hexdigest()
        self.arrays = self._arrays(header)
        self.manifest = parse(self.text, 1 << 53)
        self._check_manifest(self.manifest)
        tail = self.bytes("hgs.tail")
        need(tail[:-96] == bytes(len(tail) - 112) + MAGIC, "tail")
        need(tail[-96:-64] == blake3(self.head).digest(), "header is damaged")

    def _arrays(self, header: dict[str, Any]) -> dict[str, tuple[str, list[int], int, int]]:
        """Section 2: dtype, shape, begin, end by name in file order, covering the file."""
        need(len(header) <= 1 << 18, "too many arrays", len(header))
        need(len({name.lower() for name in header}) == len(header), "names differ in case alone")
        found = []
        for name, entry in header.items():
            need(NAME.fullmatch(name), "name", name)
            dtype, shape, offsets = fields(entry, "dtype shape data_offsets")
            need(isinstance(dtype, str) and dtype in DTYPES, "dtype", dtype)
            need(isinstance(shape, list) and len(shape) <= 8, "shape", shape)
            need(all(is_int(size, 1, 1 << 48) for size in shape), "shape", shape)
            nbytes = np.dtype(DTYPES[dtype]).itemsize
            for size in shape:
                nbytes *= size
            valid = isinstance(offsets, list) and [type(offset) for offset in offsets] == [int, int]
            need(valid and offsets[1] - offsets[0] == nbytes <= 1 << 48, "offsets", offsets)
            begin = len(self.head) + offsets[0]
            found.append((name, (dtype, shape, begin, begin + nbytes)))
        found.sort(key=lambda item: item[1][2])
        cursor, pads = len(self.head), 0
        for name, (dtype, shape, begin, end) in found:
            need(begin == cursor, "gap or overlap before", name)
            gap, cursor = -cursor % 64, end
            is_pad = (name, dtype, shape) == (f"hgs.pad.{pads}", "U8", [gap])
            need(is_pad if gap else not name.startswith("hgs.pad."), "alignment of", name)
            pads += is_pad
        need(cursor == len(self.raw), "length of the file", len(self.raw))
        return dict(found)

    def _check_manifest(self, manifest: Any) -> None:
        """Section 3."""
        names = "version features tensors ties assets extensions plan recipe"
        version, features, tensors, ties, assets, extensions, plan, recipe = fields(manifest, names)
        need(is_int(version, 0, 0), "version", version)
        need(features == [], "unknown required feature", features)
        need(all(isinstance(part, dict) for part in (tensors, assets, plan, recipe)), "manifest")
        need(all(isinstance(part, list) for part in (ties, extensions, *ties)), "ties or extensions")
        expected = {}
        for name, entry in tensors.items():
            descriptor, digest, arrays = fields(entry, "descriptor digest arrays")
            need(NAME.fullmatch(name) and not name.startswith("hgs.") and is_hex(digest), "tensor", name)
            needed = expected_arrays(name, check_descriptor(descriptor))
            need(arrays == list(needed) and all(array in self.arrays for array in arrays), "arrays of", name)
            expected[self.arrays[arrays[0]][2]] = needed
        order = [item for _, needed in sorted(expected.items()) for item in needed.items()]
        for name in sorted(assets):
            length, digest = fields(assets[name], "length digest")
            need(name in ASSETS.split() and is_int(length, 0, 1 << 48) and is_hex(digest), "asset", name)
            order += [(f"hgs.asset.{name}", ("U8", [length]))] if length else []
        for entry in extensions:
            name, required, arrays, digest = fields(entry, "name required arrays digest")
            need(NAME.fullmatch(name) and required is False and is_hex(digest), "extension", name)
            need(all(array.startswith("hgs.ext.") for array in arrays), "extension", name)
            order += [(array, self.arrays.get(array, ())[:2]) for array in arrays]
        order += [(name, ("U8", [size])) for name, size in FIXED.items()]
        found = [(name, array[:2]) for name, array in self.arrays.items() if not name.startswith("hgs.pad.")]
        need(found == order, "arrays do not match the manifest")
        tied = [name for tie in ties for name in tie]
        need(all(NAME.fullmatch(name) for name in tied) and len(set(tied)) == len(tied), "ties", tied)
        need(all(sum(name in tensors for name in tie) == 1 < len(tie) for tie in ties), "ties", ties)

    def bytes(self, name: str) -> bytes:
        _, _, begin, end = self.arrays[name]
        return self.raw[begin:end].tobytes()

    def verify(self) -> list[str]:
        """Section 5: what is damaged."""
        digests = {name: blake3(self.bytes(name)) for name in self.arrays if name != "hgs.tail"}
        parts = [(name, entry["descriptor"], entry) for name, entry in self.manifest["tensors"].items()]
        parts += [(entry["name"], None, entry) for entry in self.manifest["extensions"]]
        damaged = []
        for name, descriptor, entry in parts:
            listed = [[key, *self.arrays[key][:2], digests[key].hexdigest()] for key in entry["arrays"]]
            bound = canonical({"name": name, "descriptor": descriptor, "arrays": listed})
            if blake3(bound.encode()).hexdigest() != entry["digest"]:
                damaged.append(name)
        for name, entry in self.manifest["assets"].items():
            same = digests.get(f"hgs.asset.{name}", blake3()).hexdigest() == entry["digest"]
            damaged += [] if same else [name]
        pads = b"".join(self.bytes(name) for name in self.arrays if name.startswith("hgs.pad."))
        damaged += ["padding"] if any(pads) else []
        tail = self.bytes("hgs.tail")
        damaged += ["damage record"] if tail[-64:-32] != digests["hgs.damage"].digest() else []
        everything = blake3(self.head + b"".join(digest.digest() for digest in digests.values())).digest()
        return damaged or (["tail"] if tail[-32:] != everything else [])

    def decode(self, name: str) -> np.ndarray:
        """float32 in the original's shape; a dense tensor that is neither F16 nor BF16 as it is."""
        entry = self.manifest["tensors"][name]
        return decode(entry["descriptor"], *(np.frombuffer(self.bytes(a), np.uint8) for a in entry["arrays"]))


def is_hex(digest: object) -> bool:
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None


def check_descriptor(d: Any) -> dict[str, Any]:
    """Section 4: the descriptor itself, once every field is as it must be."""
    dtype, shape, axes, codec, params, transform = fields(d, "dtype shape axes codec params transform")
    need(all(isinstance(word, str) for word in (dtype, axes, codec)), "descriptor", d)
    need(dtype in DTYPES and axes in AXES and isinstance(params, dict), "descriptor", d)
    need(isinstance(shape, list) and all(is_int(size, 1, (1 << 48) - 1) for size in shape), "shape", shape)
    need(AXES[axes] in (None, len(shape)), "axes", axes)
    if codec == "dense":
        need(fields(params, "dtype")[0] in DTYPES and transform is None, "dense", d)
        return d
    need(axes and dtype in ("F32", "F16", "BF16"), "axes or dtype", d)
    if codec == "uniform":
        bits, block, scale, zero, centre, exponent = fields(params, "bits block scale zero centre exponent")
        need(type(bits) is int and bits in PLANES and zero in ZERO_BYTES, "parameters", params)
        need(is_int(centre, 0, 2 << bits if zero == "none" else 0), "centre", centre)
    else:
        need(codec == "codebook", "codec", codec)
        table, block, scale, exponent = fields(params, "table block scale exponent")
        need(table in TABLES, "table", table)
    need(type(block) is int and block in (0, 32, 64, 128) and is_int(exponent, -64, 64), "parameters", params)
    need(scale == "f16" or (scale == "u8" and block), "scale", scale)
    if transform is not None:
        more = " scales" if isinstance(transform, dict) and "scales" in transform else ""
        names = "kind width space begin segment" + more
        kind, width, space, begin, segment, *scales = fields(transform, names)
        letters = all(isinstance(one, str) and len(one) == (segment or matrix(d)[1]) for one in scales)
        need(letters and set("".join(scales)) <= set(LETTERS), "scales", transform)
        need(kind == "hadamard" and isinstance(space, str) and space, "transform", transform)
        need(type(width) is int and width in [2**power for power in range(1, 11)], "width", width)
        need(is_int(begin, 0, (1 << 48) - 1) and is_int(segment, 0, (1 << 48) - 1), "transform", transform)
    return d


def matrix(d: dict[str, Any]) -> tuple[int, int, int | None]:
    """Outputs, inputs, experts."""
    sizes = {"o": 1, "i": 1, "e": 1, "k": 1}
    for axis, size in zip(d["axes"], d["shape"], strict=True):
        sizes[axis] *= size
    return sizes["o"], sizes["i"] * sizes["k"], sizes["e"] if "e" in d["axes"] else None


def bits_of(params: dict[str, Any]) -> int:
    return params["bits"] if "bits" in params else (len(TABLES[params["table"]]) - 1).bit_length()


def units(params: dict[str, Any], inputs: int) -> tuple[list[tuple[int, ...]], int]:
    """Begin, width, padded width, offset, bytes of codes, blocks of a panel's units; the panel's bytes."""
    of_block = 16 * (SCALE_BYTES[params["scale"]] + ZERO_BYTES[params.get("zero", "none")])
    found, offset = [], 0
    for begin in range(0, inputs, 128):
        width = min(128, inputs - begin)
        padded = -(-width // 32) * 32
        code_bytes, blocks = padded * 2 * bits_of(params), -(-width // (params["block"] or inputs))
        found.append((begin, width, padded, offset, code_bytes, blocks))
        offset += code_bytes + (blocks * of_block if params["block"] else 0)
    return found, offset


def expected_arrays(name: str, d: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of every array of a tensor."""
    params = d["params"]
    if d["codec"] == "dense":
        return {name: (params["dtype"], d["shape"])}
    outputs, inputs, experts = matrix(d)
    lead = [-(-outputs // 16)] if experts is None else [experts, -(-outputs // 16)]
    of_row = 0 if params["scale"] == "f16" else 2
    if params["block"] == 0:
        of_row = 2 + ZERO_BYTES[params.get("zero", "none")]
    rows = {f"{name}_hgsr": ("U8", [*lead, 16 * of_row])} if of_row else {}
    return {f"{name}_hgs": ("U8", [*lead, units(params, inputs)[1]]), **rows}


def decode(d: dict[str, Any], first: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
    """first, second: bytes of the tensor's arrays."""
    shape, axes, params = d["shape"], d["axes"], d["params"]
    if d["codec"] == "dense":
        values = first.view(DTYPES[params["dtype"]]).reshape(shape)
        values = (values.astype("<u4") << 16).view("<f4") if params["dtype"] == "BF16" else values
        return values.astype("<f4") if params["dtype"] == "F16" else values
    outputs, inputs, experts = matrix(d)
    panels = (experts or 1) * -(-outputs // 16)
    rows = None if second is None else second.reshape(panels, -1)
    values = decode_panels(params, first.reshape(panels, -1), rows, inputs)
    values = values.reshape(experts or 1, -1, inputs)[:, :outputs]
    if d["transform"] is not None:
        values = unmix(values, **d["transform"])
    if "k" in axes:
        return values.reshape(outputs, -1, shape[1]).transpose(0, 2, 1).reshape(shape)
    return (values.transpose(0, 2, 1) if axes in ("io", "eio") else values).reshape(shape)


def decode_panels(params: dict[str, Any], payload: np.ndarray, rows: Any, inputs: int) -> np.ndarray:
    """float32 `[panels, 16, inputs]`."""
    bits, block, kind = bits_of(params), params["block"], params.get("zero", "none")
    scale_bytes, zero_bytes = SCALE_BYTES[params["scale"]], ZERO_BYTES[kind]
    if "table" in params:
        levels = np.array(TABLES[params["table"]], np.float32)
    else:
        levels = (2 * np.arange(1 << bits, dtype=np.float32) - np.float32(params["centre"])) * np.float32(0.5)
    power = np.float32(2.0 ** params["exponent"])
    row = np.float32(1) if rows is None else numbers(rows, 0, 2)
    out = np.empty((len(payload), 16, inputs), np.float32)
    for first, width, padded, offset, code_bytes, blocks in units(params, inputs)[0]:
        part = payload[:, offset:]
        codes = unpack(part[:, :code_bytes], bits, padded)[:, :, :width]
        for index in range(blocks):
            begin, end = (index * block, min((index + 1) * block, width)) if block else (0, width)
            scale, zero = row, numbers(rows, 32, zero_bytes) if zero_bytes and not block else None
            if block:
                scale = numbers(part, code_bytes + 16 * scale_bytes * index, scale_bytes) * row
                zeros = code_bytes + 16 * scale_bytes * blocks
                zero = numbers(part, zeros + 16 * zero_bytes * index, zero_bytes)
            values = levels[codes[:, :, begin:end]]
            if kind in ("u8", "f16"):
                values = values - zero[:, :, None]
            values = values * (scale * power)[:, :, None]
            out[:, :, first + begin : first + end] = values + zero[:, :, None] if kind == "min" else values
    return out


def numbers(raw: Any, begin: int, itemsize: int) -> np.ndarray:
    """16 bytes or 16 float16 of every panel, as float32."""
    part = np.ascontiguousarray(raw[:, begin : begin + 16 * itemsize])
    return (part.view("<f2") if itemsize == 2 else part).astype(np.float32)


def unpack(packed: np.ndarray, bits: int, inputs: int) -> np.ndarray:
    """Codes `[panels, 16, inputs]` of one unit."""
    codes = np.zeros((len(packed), inputs // 4, 16, 4), np.uint8)
    begin, low = 0, bits
    for width in PLANES[bits]:
        low, together = low - width, 8 // width
        lines = packed[:, begin : begin + inputs * 2 * width].reshape(len(packed), -1, 16, 4)
        begin += inputs * 2 * width
        for quad in range(inputs // 4):
            part = lines[:, quad // together] >> (quad % together * width)
            codes[:, quad] |= (part & ((1 << width) - 1)) << low
    return codes.transpose(0, 2, 1, 3).reshape(len(packed), 16, inputs)


def unmix(x: Any, kind: str, width: int, space: str, begin: int, segment: int, scales: str = "g") -> Any:
    """`W S D H` → `W` along the last dimension."""
    inputs = x.shape[-1]
    row, norm, x = segment or inputs, np.float32(width**-0.5), x.copy()
    steps = np.resize([32 - LETTERS.index(letter) for letter in scales], inputs)
    full, factor = row // width * width, np.ldexp(QUARTERS[steps % 4], steps // 4)
    for start in range(0, inputs, row):
        for first in range(start, start + full, width) if start + full <= inputs else ():
            block = x[..., first : first + width]
            for power in range(width.bit_length() - 1):
                pairs = block.reshape(*block.shape[:-1], -1, 2, 2**power)
                low, high = pairs[..., 0, :], pairs[..., 1, :]
                block = np.stack([low + high, low - high], -2).reshape(block.shape)
            x[..., first : first + width] = block
            factor[first : first + width] *= norm * signs(space, begin + first, width)
    return x * factor


def signs(space: str, begin: int, count: int) -> np.ndarray:
    (seed,), mask, found = struct.unpack("<Q", blake3(space.encode()).digest()[:8]), (1 << 64) - 1, []
    for index in range(begin, begin + count):
        z = (seed + (index + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        found.append(-1 if (z ^ z >> 31) >> 63 else 1)
    return np.array(found, np.float32)


def main(path: str, verify: bool) -> int:
    file = File(path)
    print(f"content {file.content_digest}, {len(file.raw)} bytes, assets: {[*file.manifest['assets']]}")
    for name, entry in file.manifest["tensors"].items():
        d = entry["descriptor"]
        print(f"{name}  {d['dtype']} {d['shape']}  {d['codec']} {canonical(d['params'])}")
        if verify:
            file.decode(name)
    damaged = file.verify() if verify else []
    print(f"damaged: {', '.join(damaged)}" if damaged else "sound" if verify else "not verified")
    return len(damaged) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], "--verify" in sys.argv[2:]))
