"""The model as each contestant reads it, converted once into the cache folder.

All are made from the same bf16 folder. Names carry what they were made with, so that nothing stale is read.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import peers

from cpu import environment
from cpu.environment import Missing, run

HERE = Path(__file__).resolve().parent
BENCHMARKS = HERE.parent
SOURCE = BENCHMARKS.parent / "src" / "higgsx"
OPENVINO = {
    "int8": ("--weight-format", "int8"),
    "int4-g128": ("--weight-format", "int4", "--group-size", "128"),
    "int4-g128-sym": ("--weight-format", "int4", "--group-size", "128", "--sym"),
    "int4-g64": ("--weight-format", "int4", "--group-size", "64"),
}


def once(out: Path, make: Callable[[Path], None]) -> Path:
    """`out`, made under another name first if it is not there."""
    if not out.exists():
        print(f"making {out.name}", file=sys.stderr)
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"{out.name}.part")
        remove(part)
        make(part)
        part.rename(out)
    return out


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def weights_of(folder: Path) -> int:
    """Weights in matrices of a checkpoint, from its header; tied ones are stored and counted once."""
    with open(folder / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__" and len(tensor["shape"]) > 1:
            size = 1
            for dimension in tensor["shape"]:
                size *= dimension
            total += size
    return total


def gguf(folder: Path, kind: str) -> Path:
    """A GGUF of this type; "BF16" is what the others are made from."""
    program = environment.python()
    if (folder.with_name(f"{folder.name}.gguf")).is_file():
        code = "import sys; from pathlib import Path; from peers import gguf_of; gguf_of(Path(sys.argv[1]))"
        run([program, "-c", code, folder], f"bf16 GGUF of {folder.name}", cwd=BENCHMARKS)
        plain = peers.CACHE / f"{folder.name}-bf16.gguf"
    else:
        plain = once(peers.CACHE / f"{folder.name}-bf16.gguf", lambda part: _small_gguf(folder, part))
    if kind == "BF16":
        return plain
    tool = peers.tool("llama-quantize")
    return once(
        peers.CACHE / f"{folder.name}-{kind}.gguf",
        lambda part: void(run([tool, plain, part, kind], f"llama-quantize {kind}")),
    )


def void(result: object) -> None:
    pass


def _small_gguf(folder: Path, part: Path) -> None:
    command = [environment.python(), HERE / "small_gguf.py", peers.sources(), folder, part]
    run(command, "conversion by llama.cpp")


def gguf_bytes(path: Path) -> int:
    """Bytes of the matrices in a GGUF."""
    code = (
        "import sys, gguf; t = gguf.GGUFReader(sys.argv[1]).tensors;"
        "print(sum(int(x.n_bytes) for x in t if len([n for n in x.shape if n > 1]) > 1))"
    )
    return int(run([environment.python(), "-c", code, path], "reading a GGUF"))


def openvino(folder: Path, kind: str) -> Path:
    """A folder with OpenVINO's model, stateful, weights compressed by nncf without data."""

    def make(part: Path) -> None:
        program = environment.python().with_name("optimum-cli")
        command = [program, "export", "openvino", "-m", folder, "--task", "text-generation-with-past"]
        command += ["--disable-convert-tokenizer", *OPENVINO[kind], part]
        run(command, "optimum-cli export openvino")
        if not (part / "openvino_model.bin").is_file():
            raise Missing("optimum-cli export openvino wrote no model")

    return once(peers.CACHE / f"{folder.name}-openvino-{kind}", make)


def openvino_bytes(path: Path) -> int:
    return (path / "openvino_model.bin").stat().st_size


def fingerprint() -> str:
    """Of our code that decides about a file's bytes."""
    digest = hashlib.sha256()
    folders = ("almpq", "codecs", "transforms", "rounding", "hgs")
    paths = [path for folder in folders for path in sorted((SOURCE / folder).glob("*.py"))]
    paths += [SOURCE / "pipeline" / f"{name}.py" for name in ("draft", "encode", "palette", "plan", "survey")]
    for path in (*paths, SOURCE / "descriptor.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def hgs(folder: Path, bits: str, allow: str = "") -> tuple[Path, dict[str, object]]:
    """Our file with this budget, and what `higgsx compress --json` said about it."""
    stem = f"{folder.name}-{bits}{'-' + allow if allow else ''}"
    out = peers.CACHE / "hgs" / f"{stem}-{fingerprint()}.hgs"
    said = out.with_suffix(".json")

    def make(part: Path) -> None:
        for old in out.parent.glob(f"{stem}-??????????.*"):
            old.unlink()
        command = [sys.executable, "-m", "higgsx.cli", "compress", folder, "--bits", bits]
        command += ["--allow", allow] if allow else []
        said.write_text(run([*command, "--no-check", "--json", "-o", part], f"higgsx compress {bits}"))

    once(out, make)
    return out, json.loads(said.read_text())
