"""llama.cpp's own tools, built once from the source distribution of llama-cpp-python."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

CACHE = Path(os.environ.get("HIGGSX_PEERS", "~/.cache/higgsx-peers")).expanduser()
VERSION = "0.3.36"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    # its AMX code crashes on virtual machines
    "-DGGML_AMX=OFF",
)


def sources() -> Path:
    """The unpacked source tree of llama.cpp."""
    tree = CACHE / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp"
    if not (tree / "CMakeLists.txt").is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        wanted = f"llama-cpp-python=={VERSION}"
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", wanted]
        subprocess.run([*command, "-d", str(CACHE)], check=True)
        with tarfile.open(next(CACHE.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(CACHE, filter="data")
    return tree


def tool(name: str) -> Path:
    """One of llama.cpp's programs, built if it is not there."""
    tree = sources()
    program = tree / "build" / "bin" / name
    if not program.is_file():
        subprocess.run(["cmake", "-B", "build", *_OPTIONS], cwd=tree, check=True, stdout=subprocess.DEVNULL)
        build = ["cmake", "--build", "build", "-j", str(os.cpu_count()), "--target", name]
        subprocess.run(build, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return program


def gguf_of(folder: Path) -> Path:
    """A bfloat16 GGUF of a model folder, made once by llama.cpp's converter (needs the package gguf)."""
    out = CACHE / f"{folder.name}-bf16.gguf"
    if not out.is_file():
        script = sources() / "convert_hf_to_gguf.py"
        command = [sys.executable, str(script), str(folder), "--outfile", str(out), "--outtype", "bf16"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out
