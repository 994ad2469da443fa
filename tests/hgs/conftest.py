from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from higgsx.hgs import Draft, HgsFile, Writer

PARAMS = {"bits": 4, "block": 64, "scale": "u8", "zero": "none", "centre": 15, "exponent": 0}


def describe(shape: list[int], **changes: object) -> dict[str, object]:
    return {
        "dtype": "BF16",
        "shape": shape,
        "axes": "oi",
        "codec": "uniform",
        "params": {**PARAMS, **changes},
        "transform": None,
    }


class Sample:
    """A small draft with ragged arrays, and random bytes for each of them."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        self.arrays = {
            "z.weight_hgs": ("U8", (2, 333)),
            "z.weight_hgsr": ("U8", (2, 32)),
            "norm.weight": ("F32", (7,)),
            "scale": ("F64", ()),
            "a.weight_hgs": ("U8", (3, 1, 128)),
        }
        tensors = [
            ("z.weight", describe([20, 40]), ["z.weight_hgs", "z.weight_hgsr"]),
            ("norm.weight", {"codec": "dense"}, ["norm.weight"]),
            ("scale", {"codec": "dense"}, ["scale"]),
            ("a.weight", describe([3, 5, 32]), ["a.weight_hgs"]),
        ]
        self.draft = Draft(
            [
                (name, meaning, [(array, *self.arrays[array]) for array in arrays])
                for name, meaning, arrays in tensors
            ],
            ties=[["z.weight", "head.weight"]],
            assets={"tokenizer.json": b"{}" * 100, "config.json": b'{"a": 1.5}', "merges.txt": b""},
            plan={"bits": "4.25", "choices": [["z.weight", "int4"]]},
            recipe={"source": "tiny", "seed": 0},
        )
        self.data = {
            name: random.integers(
                0, 256, {"U8": 1, "F32": 4, "F64": 8}[dtype] * int(np.prod(shape)), np.uint8
            )
            for name, (dtype, shape) in self.arrays.items()
        }

    def write(self, path: Path, damage: dict | None = None, **options: object) -> str:
        with Writer(path, self.draft, **options) as writer:
            for name, data in self.data.items():
                writer.append(name, data)
            return writer.finish(damage)


@pytest.fixture
def sample() -> Sample:
    return Sample()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.hgs"


@pytest.fixture
def file(sample: Sample, path: Path):
    sample.write(path, {"kl": "0.01"})
    with HgsFile.open(path) as opened:
        yield opened
