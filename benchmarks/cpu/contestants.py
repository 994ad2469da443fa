"""Who takes part: names, files, what a token reads, how the child process is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cpu import environment, files
from cpu.environment import Missing

OURS = {"8": "8.13", "4.5": "4.5", "4.25": "4.25", "3": "3.13", "2": "2.13"}
"""Rows of ours by what they are called, and their budgets in bits of a weight."""
ONE_CODE = {"gauss16": "4.13", "int4": "4.13", "gauss8": "3.13", "gauss4": "2.13"}
PACKED = ("8", "4.5")
SMALL_OURS = {"8": "8.7", "4.5": "4.5"}
SMALL_LLAMA = ("Q8_0", "Q4_0")
LLAMA = {"Q8_0": 8, "Q4_0": 4, "Q4_K_M": 4, "Q3_K_M": 3, "Q2_K": 2}
OPENVINO = {"int8": 8, "int4-g128": 4}
MORE_OPENVINO = {"int4-g128-sym": 4, "int4-g64": 4}


@dataclass(frozen=True)
class Contestant:
    """level      about how many bits: 16, 8, 4, 3, 2
    token_bytes  bytes of weights that decoding one token reads
    bits         of a weight, all bytes of the matrices counted
    slow         takes so long that it runs in the first rounds only
    """

    name: str
    maker: str
    level: int
    engine: str
    path: Path
    token_bytes: int
    bits: float
    options: dict[str, Any] = field(default_factory=dict)
    cold: bool = True
    threads: int | None = None
    slow: bool = False

    @property
    def program(self) -> str:
        return str(environment.python() if self.maker in ("llama.cpp", "OpenVINO") else sys.executable)

    @property
    def variables(self) -> dict[str, str]:
        return environment.llama() if self.maker == "llama.cpp" else {}

    @property
    def key(self) -> str:
        return f"{self.maker} {self.name}"


Spec = tuple[str, str, Callable[[], Contestant]]
"""Maker, name, and what makes it; it may raise Missing."""


def specs(folder: Path, *, one_code: bool = False, more: bool = False) -> Iterator[Spec]:
    """The main table's rows for one folder, in the order in which they are printed."""
    yield "transformers", "bf16", lambda: _plain(folder, "bf16", 2, {"dtype": "bfloat16"})
    yield "transformers", "fp32", lambda: _plain(folder, "fp32", 4, {"dtype": "float32"}, cold=False)
    yield (
        "transformers",
        "dynamic INT8",
        lambda: _plain(folder, "dynamic INT8", 1, {"dtype": "float32", "dynamic": True}, cold=False),
    )
    for kind, level in LLAMA.items():
        yield "llama.cpp", kind, lambda kind=kind, level=level: llama(folder, kind, level)
    for kind, level in (OPENVINO | MORE_OPENVINO if more else OPENVINO).items():
        yield "OpenVINO", kind, lambda kind=kind, level=level: _openvino(folder, kind, level)
    for name, bits in OURS.items():
        yield "higgsx", f"{name} bits", lambda name=name, bits=bits: ours(folder, name, bits)
    for allow, bits in ONE_CODE.items() if one_code else ():
        yield "higgsx", f"{allow} only", lambda allow=allow, bits=bits: ours(folder, allow, bits, allow)
    for name in PACKED:
        yield "higgsx", f"{name} bits in transformers", lambda name=name: packed(folder, name)


def small_specs(folder: Path, threads: Sequence[int]) -> Iterator[Spec]:
    """The rows for a model so small that one thread may be faster than two."""
    plain = {"dtype": "float32"}
    yield "transformers", "fp32", lambda: _plain(folder, "fp32", 4, plain)
    for count in threads:
        for kind in SMALL_LLAMA:
            name = f"{kind}, {_threads(count)}"
            yield "llama.cpp", name, lambda kind=kind, n=count: llama(folder, kind, LLAMA[kind], n)
        for name, bits in SMALL_OURS.items():
            label = f"{name} bits, {_threads(count)}"
            yield "higgsx", label, lambda name=name, bits=bits, n=count: ours(folder, name, bits, threads=n)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def collect(
    wanted: Sequence[Spec], only: Sequence[str]
) -> tuple[list[Contestant], dict[str, str], list[str]]:
    """Those that can run; for the others the reason; the names of all in order."""
    found: list[Contestant] = []
    failed: dict[str, str] = {}
    order: list[str] = []
    for maker, name, make in wanted:
        key = f"{maker} {name}"
        if only and not any(fnmatch(key, f"*{pattern}*") for pattern in only):
            continue
        try:
            found.append(make())
            order.append(found[-1].key)
        except (Missing, OSError) as error:
            failed[key] = str(error)
            order.append(key)
            print(f"{key}: {error}", file=sys.stderr)
    return found, failed, order


def _plain(folder: Path, name: str, width: int, options: dict[str, Any], cold: bool = True) -> Contestant:
    weights = files.weights_of(folder)
    return Contestant(
        name, "transformers", {1: 8, 2: 16, 4: 32}[width], "plain", folder, width * weights,
        8.0 * width, options, cold, slow=not cold,
    )  # fmt: skip


def llama(folder: Path, kind: str, level: int, threads: int | None = None) -> Contestant:
    path = files.gguf(folder, kind)
    nbytes = files.gguf_bytes(path)
    bits = 8 * nbytes / files.weights_of(folder)
    name = kind if threads is None else f"{kind}, {_threads(threads)}"
    return Contestant(name, "llama.cpp", level, "llama", path, nbytes, bits, threads=threads)


def _openvino(folder: Path, kind: str, level: int) -> Contestant:
    path = files.openvino(folder, kind)
    nbytes = files.openvino_bytes(path)
    return Contestant(
        kind, "OpenVINO", level, "openvino_", path, nbytes, 8 * nbytes / files.weights_of(folder)
    )


def ours(folder: Path, name: str, bits: str, allow: str = "", threads: int | None = None) -> Contestant:
    path, said = files.hgs(folder, bits, allow)
    real = float(said["bits"])  # type: ignore[arg-type]
    nbytes = round(real * files.weights_of(folder) / 8)
    level = 8 if real > 6 else int(real)
    label = f"{name} bits" if not allow else f"{name} only"
    label = label if threads is None else f"{label}, {_threads(threads)}"
    return Contestant(label, "higgsx", level, "lean", path, nbytes, real, threads=threads)


def packed(folder: Path, name: str) -> Contestant:
    plain = ours(folder, name, OURS[name])
    return Contestant(
        f"{name} bits in transformers", "higgsx", plain.level, "plain", plain.path, plain.token_bytes,
        plain.bits, {"ours": True}, cold=False, slow=True,
    )  # fmt: skip


def shape_of(folder: Path) -> dict[str, int]:
    """Vocabulary, positions, and multiply-adds of the matrices for one token without the head."""
    config = json.loads((folder / "config.json").read_text())
    width = config.get("hidden_size") or config["n_embd"]
    positions = config.get("max_position_embeddings") or config["n_positions"]
    tables = config["vocab_size"] * width * (1 if config.get("tie_word_embeddings") else 2)
    if config["model_type"] in ("gpt2", "opt"):
        tables += positions * width
    return {
        "vocabulary": config["vocab_size"],
        "positions": positions,
        "inner": files.weights_of(folder) - tables,
        "head": config["vocab_size"] * width,
    }
