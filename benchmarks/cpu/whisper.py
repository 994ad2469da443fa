"""The audio encoder: Whisper base with its real weights, and the shape of large-v3 with random ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import peers
from common import REAL, SHARED

from cpu import environment, files
from cpu.environment import Missing, run
from cpu.rounds import PATIENCE, Result, call

LARGE = {
    "vocab_size": 51866, "num_mel_bins": 128, "d_model": 1280, "max_target_positions": 448,
    "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
    "decoder_layers": 32, "decoder_attention_heads": 20, "decoder_ffn_dim": 5120,
}  # fmt: skip
MODELS = {"whisper-base": 80, "whisper-large-v3-shape": 128}
"""Name: mel bands."""
CLIP = SHARED / "data" / "lj-speech" / "LJ001-0001.wav"
BITS = "8.13"
PASSES = {"int8": "two passes", "fast": "one pass"}
"""Precision: what it does with weights of 8 bits, in words."""


@dataclass(frozen=True)
class Row:
    key: str
    path: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    peer: bool = False


def folder_of(name: str) -> Path:
    """The model's folder, made where it has random weights; Missing where it cannot be."""
    if name == "whisper-base":
        if not (REAL / name / "config.json").is_file():
            raise Missing("not here: see ../shared/models/real/prepare.py")
        return REAL / name

    def make(part: Path) -> None:
        made = call({"job": "random_whisper", "config": LARGE, "out": str(part), "threads": 2})
        if "error" in made:
            raise Missing(f"random model: {made['error']}")

    return files.once(peers.CACHE / name, make)


def openvino(folder: Path, kind: str) -> Path:
    def make(part: Path) -> None:
        program = environment.python().with_name("optimum-cli")
        command = [program, "export", "openvino", "-m", folder, "--task", "automatic-speech-recognition"]
        command += ["--disable-convert-tokenizer", "--weight-format", kind, part]
        run(command, "optimum-cli export openvino")

    return files.once(peers.CACHE / f"{folder.name}-openvino-{kind}", make)


def rows_of(folder: Path) -> tuple[list[Row], dict[str, str]]:
    def ours() -> Path:
        return files.hgs(folder, BITS)[0]

    def theirs(kind: str) -> Row:
        # exporting the large shape takes longer than everything else together
        if folder.name != "whisper-base":
            raise Missing("only whisper-base is converted for it")
        return Row(f"OpenVINO {kind}", openvino(folder, kind), {"openvino": True}, True)

    makers: dict[str, Callable[[], Row]] = {
        "transformers fp32": lambda: Row("transformers fp32", folder),
        "transformers dynamic INT8": lambda: Row("transformers dynamic INT8", folder, {"dynamic": True}),
        "OpenVINO fp32": lambda: theirs("fp32"),
        "OpenVINO int8": lambda: theirs("int8"),
    }
    for precision, passes in PASSES.items():
        for attention, whose in (("sdpa", "PyTorch's"), ("higgsx", "our")):
            key = f"higgsx 8 bits, {passes}, {whose} attention"
            options = {"ours": True, "attention": attention, "precision": precision}
            makers[key] = partial(lambda key, options: Row(key, ours(), options), key, options)
    found, failed = [], {}
    for key, make in makers.items():
        try:
            found.append(make())
        except (Missing, OSError) as error:
            failed[key] = str(error)
            print(f"{folder.name}, {key}: {error}", file=sys.stderr)
    return found, failed


def features_of(name: str) -> Path:
    def make(part: Path) -> None:
        # numpy would append .npy to another name
        plain = part.with_name(f"{part.name}.npy")
        order = {"job": "features", "clip": str(CLIP), "mels": MODELS[name], "out": str(plain), "threads": 1}
        made = call(order)
        if "error" in made:
            raise Missing(f"features: {made['error']}")
        plain.rename(part)

    return files.once(peers.CACHE / f"features-{MODELS[name]}.npy", make)


def measure(name: str, rounds: int, threads: int) -> dict[str, Any]:
    """Interleaved rounds of every row of one model."""
    folder = folder_of(name)
    features = features_of(name)
    rows, failed = rows_of(folder)
    results: dict[str, list[Result]] = {}
    bad: dict[str, int] = {}
    for number in range(rounds):
        for row in rows:
            if bad.get(row.key, 0) >= PATIENCE:
                continue
            order = {
                "job": "encoder", "path": str(row.path), "options": dict(row.options), "threads": threads,
                "features": str(features), "expected": str(peers.CACHE / f"{name}-hidden.npy"),
                "is_reference": row.key == "transformers fp32",
                "repeat": 3 if name == "whisper-base" else 1,
            }  # fmt: skip
            program = str(environment.python()) if row.peer else sys.executable
            result = {"round": number, **call(order, program)}
            bad[row.key] = bad.get(row.key, 0) + 1 if "error" in result else 0
            results.setdefault(row.key, []).append(result)
            said = result.get("error") or f"{result['forward_s']:.3f} s"
            print(f"round {number + 1}, {name}, {row.key}: {said}", file=sys.stderr)
    shown = [{**asdict(row), "path": row.path.name} for row in rows]
    order_of = [row.key for row in rows] + list(failed)
    return {"order": order_of, "rows": shown, "failed": failed, "rounds": results}
