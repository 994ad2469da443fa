"""The reader of docs/reader, which shares no code with the package, sees every file the same way."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.grids import TABLES
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import BITS, Uniform
from higgsx.descriptor import Descriptor
from higgsx.errors import FormatError
from higgsx.hgs import Draft, HgsFile, Writer
from higgsx.transforms.hadamard import Hadamard

SCRIPT = Path(__file__).parents[2] / "docs" / "reader" / "hgs_reader.py"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("hgs_reader", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def codecs() -> dict[str, PanelCodec]:
    found: dict[str, PanelCodec] = {}
    for block in (0, 32, 64, 128):
        scales = ("f16",) if block == 0 else ("u8", "f16")
        for scale in scales:
            for bits in BITS:
                for zero in ("none", "u8", "f16", "min"):
                    if zero != "none" and bits in (3, 6):
                        continue
                    centre = 0 if zero != "none" else (1 << bits) - (bits % 2)
                    name = f"uniform {bits} {block} {scale} {zero}"
                    found[name] = Uniform(bits, block, scale, zero, centre, -9 if bits == 4 else 3)
            for table in TABLES:
                found[f"{table} {block} {scale}"] = Codebook(table, block, scale, -2)
    return found


CODECS = codecs()


def random_arrays(descriptor: Descriptor, seed: int) -> dict[str, torch.Tensor]:
    """Random codes, scales and zero points, packed by the codec."""
    codec, matrix = descriptor.codec, descriptor.matrix
    assert isinstance(codec, PanelCodec)
    random = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(matrix.experts or 1):
        blocks = len(list(codec.blocks(matrix.inputs)))
        shape = (blocks, matrix.outputs)
        codes = torch.randint(0, 1 << codec.code_bits, (matrix.inputs, matrix.outputs), generator=random)

        def half(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=random).half()

        def byte(*size: int) -> torch.Tensor:
            return torch.randint(0, 256, size, generator=random).byte()

        block = None if not codec.block else byte(*shape) if codec.scale == "u8" else half(*shape)
        row = half(matrix.outputs) if not codec.block or codec.scale == "u8" else None
        zero = None if codec.zero == "none" else byte(*shape) if codec.zero == "u8" else half(*shape)
        parts.append(codec.pack(codes.byte(), Scales(block, row, zero)))
    arrays = {"_hgs": torch.stack([payload for payload, _ in parts])}
    if parts[0][1] is not None:
        arrays["_hgsr"] = torch.stack([rows for _, rows in parts if rows is not None])
    return arrays if matrix.experts else {suffix: array[0] for suffix, array in arrays.items()}


def write(path: Path, tensors: dict[str, tuple[Descriptor, dict[str, torch.Tensor]]]) -> None:
    listed = [
        (name, descriptor.to_json(), [(name + suffix, *spec) for suffix, spec in descriptor.arrays().items()])
        for name, (descriptor, _) in tensors.items()
    ]
    with Writer(path, Draft(listed, assets={"config.json": b"{}", "NOTICE": b""})) as writer:
        for name, (_, arrays) in tensors.items():
            for suffix, array in arrays.items():
                writer.append(name + suffix, array.contiguous().flatten().view(torch.uint8).numpy())
        writer.finish({"kl": 0.5})


def same_bits(a: np.ndarray, b: torch.Tensor) -> bool:
    theirs = b.contiguous().numpy()
    return a.shape == theirs.shape and a.dtype == theirs.dtype and a.tobytes() == theirs.tobytes()


def test_every_codec_decodes_to_the_same_bits(reader, path) -> None:
    tensors = {}
    for index, codec in enumerate(CODECS.values()):
        inputs = (200, 128, 300, 37)[index % 4]
        transform = Hadamard.default("space", inputs) if index % 2 else None
        descriptor = Descriptor("BF16", ((5, 16, 33)[index % 3], inputs), "oi", codec, transform)
        tensors[f"t{index}"] = descriptor, random_arrays(descriptor, index)
    write(path, tensors)
    file = reader.File(path)
    assert file.verify() == [] and len(tensors) > 150
    for name, (descriptor, arrays) in tensors.items():
        assert same_bits(file.decode(name), descriptor.decode(arrays)), (name, descriptor)


def test_every_shape_and_transform_decodes_to_the_same_bits(reader, path) -> None:
    uniform, table = Uniform.symmetric(4, 64, -3), Codebook.plain("gauss32", 32)
    cases = [
        ("io", (200, 20), None),
        ("eoi", (3, 17, 130), Hadamard(64, "e")),
        ("eio", (2, 130, 17), Hadamard(128, "e")),
        ("oik", (6, 40, 3), Hadamard(32, "c", 0, 40)),
        ("oikk", (18, 33, 2, 3), Hadamard(32, "c", 0, 33)),
        ("oikk", (18, 4, 2, 3), None),
        ("oi", (16, 1000), Hadamard(1024, "wide")),
        ("oi", (16, 2100), Hadamard(1024, "wide")),
        ("oi", (16, 100), Hadamard(2, "narrow", 1 << 40)),
        ("oi", (16, 100), Hadamard(16, "slice", 77)),
        ("oi", (16, 100), Hadamard(16, "segments", 5, 30)),
        ("oi", (1, 1), None),
        ("oi", (16, 32), Hadamard(32, "a.b.ä")),
    ]
    tensors = {}
    for index, (axes, shape, transform) in enumerate(cases):
        for codec in (uniform, table):
            descriptor = Descriptor("F16", shape, axes, codec, transform)
            tensors[f"t{len(tensors)}"] = descriptor, random_arrays(descriptor, index)
    write(path, tensors)
    file = reader.File(path)
    for name, (descriptor, arrays) in tensors.items():
        assert same_bits(file.decode(name), descriptor.decode(arrays)), (name, descriptor)


def test_dense_tensors(reader, path) -> None:
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    stored = {
        "F32": values,
        "F64": values.double(),
        "F16": values.half(),
        "BF16": values.bfloat16(),
        "I64": (values * 99).long(),
        "U8": (values * 9).abs().byte(),
        "BOOL": values > 0,
    }
    tensors = {
        dtype: (Descriptor(dtype, (3, 5), "", Dense(dtype)), {"": tensor}) for dtype, tensor in stored.items()
    }
    scalar = Descriptor("F32", (), "", Dense("BF16"))
    tensors["scalar"] = scalar, {"": torch.tensor(1.5, dtype=torch.bfloat16)}
    write(path, tensors)
    file = reader.File(path)
    for dtype, tensor in stored.items():
        expected = tensor.float() if dtype in ("F16", "BF16") else tensor
        assert file.decode(dtype).tolist() == expected.tolist()
    assert file.decode("scalar").tolist() == 1.5


def test_both_readers_agree_about_a_file(reader, path) -> None:
    descriptor = Descriptor("BF16", (20, 40), "oi", Uniform.symmetric(4, 32))
    write(path, {"w": (descriptor, random_arrays(descriptor, 0))})
    with HgsFile.open(path) as ours:
        theirs = reader.File(path)
        assert theirs.content_digest == ours.content_digest
        assert {name: (spec[2], spec[3]) for name, spec in theirs.arrays.items()} == {
            name: (array.begin, array.end) for name, array in ours.arrays.items()
        }
        raw = path.read_bytes()
        for name in ("w_hgs", "w_hgsr", "hgs.asset.config.json", "hgs.damage"):
            place = ours.arrays[name].begin
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
            assert reader.File(path).verify() == HgsFile.open(path).verify() != []


def test_the_script(path) -> None:
    descriptor = Descriptor("BF16", (20, 40), "oi", Uniform.symmetric(4, 32))
    write(path, {"w": (descriptor, random_arrays(descriptor, 0))})
    listed = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True)
    assert (
        listed.returncode == 0 and "w  BF16 [20, 40]  uniform" in listed.stdout and "NOTICE" in listed.stdout
    )
    verified = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), "--verify"], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "") and verified.stdout.endswith("sound\n")
    raw = bytearray(path.read_bytes())
    with HgsFile.open(path) as file:
        raw[file.arrays["w_hgs"].begin] ^= 1
    path.write_bytes(raw)
    verified = subprocess.run(
        [sys.executable, str(SCRIPT), str(path), "--verify"], capture_output=True, text=True
    )
    assert verified.returncode == 1 and verified.stdout.endswith("damaged: w\n")


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "x"},
        {"dtype": "I64"},
        {"axes": "oo"},
        {"axes": "eoi"},
        {"shape": [0, 40]},
        {"shape": [20, True]},
        {"shape": [20, 72]},
        {"shape": [33, 40]},
        {"params": {"bits": 7}},
        {"params": {"bits": [4]}},
        {"params": {"bits": 0}},
        {"params": {"bits": "4"}},
        {"params": {"bits": 8}},
        {"params": {"block": 1}},
        {"params": {"block": 1 << 31}},
        {"params": {"block": 0}},
        {"params": {"scale": "f32"}},
        {"params": {"scale": "f16"}},
        {"params": {"zero": {}}},
        {"params": {"zero": "u8"}},
        {"params": {"centre": 33}},
        {"params": {"centre": -1}},
        {"params": {"exponent": 65}},
        {"params": {"more": 1}},
        {"transform": {}},
        {"transform": {"kind": "hadamard", "width": 3, "space": "s", "begin": 0, "segment": 0}},
        {"transform": {"kind": "hadamard", "width": 2048, "space": "s", "begin": 0, "segment": 0}},
        {"transform": {"kind": "hadamard", "width": 32, "space": "", "begin": 0, "segment": 0}},
        {"transform": {"kind": "hadamard", "width": 32, "space": "s", "begin": -1, "segment": 0}},
        {"transform": {"kind": "rotate", "width": 32, "space": "s", "begin": 0, "segment": 0}},
    ],
)
def test_both_refuse_a_descriptor_that_is_none_or_does_not_fit_its_arrays(reader, path, change) -> None:
    """The container of the package leaves descriptors to `Descriptor`; together they refuse the same."""
    good = Descriptor("BF16", (20, 40), "oi", Uniform.symmetric(4, 32)).to_json()
    change = {**change, "params": {**good["params"], **change.get("params", {})}}
    bad = {**good, **change}
    good_sizes = Descriptor.from_json(good).arrays()
    arrays = [("w" + suffix, *spec) for suffix, spec in good_sizes.items()]
    with Writer(path, Draft([("w", bad, arrays)])) as writer:
        for name, _, shape in arrays:
            writer.append(name, bytes(shape[0] * shape[1]))
        writer.finish()
    with pytest.raises(ValueError):
        reader.File(path)
    try:
        assert Descriptor.from_json(bad).arrays() != good_sizes
    except FormatError as error:
        assert error.code in ("CODEC", "SHAPE", "DTYPE")
