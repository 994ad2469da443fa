"""The peers' own Python environment, in a cache folder, set up once.

llama-cpp-python is used from its source distribution with the libraries that `peers.tool` builds there, so
that nothing is compiled twice and the tools and the measured library are the same build.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import peers

TORCH = os.environ.get("TORCH", "torch==2.13.0")
PACKAGES = (
    "openvino==2026.4.1",
    "nncf==3.4.0",
    "optimum-intel==2.2.0",
    "gguf",
    "safetensors",
    "diskcache",
    "jinja2",
    "typing_extensions",
)
STAMP = "ready-1"


class Missing(Exception):
    """A peer cannot be used here, and why."""


def run(command: list[str | Path], what: str, **more: object) -> str:
    """Standard output of a command; Missing with the last line of its error output where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Missing(f"{what} failed: {lines[-1][:200] if lines else f'exit {done.returncode}'}")
    return str(done.stdout)


def python() -> Path:
    """The interpreter of the peers' environment, made at the first call."""
    place = peers.CACHE / "env"
    program = place / "bin" / "python"
    if not (place / STAMP).is_file():
        print(f"setting up the peers' environment in {place}", file=sys.stderr)
        peers.CACHE.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", place], "making an environment")
        install = [program, "-m", "pip", "install", "-q"]
        run([*install, TORCH], f"installing {TORCH}")
        run([*install, TORCH, *PACKAGES], "installing openvino, nncf and optimum-intel")
        # comes with optimum-intel, is not used here, and its build must match torch's
        run([program, "-m", "pip", "uninstall", "-qy", "torchvision"], "removing torchvision")
        (place / STAMP).touch()
    return program


def llama() -> dict[str, str]:
    """Variables with which `import llama_cpp` works in the peers' environment."""
    try:
        tree = peers.sources()
        folder = peers.tool("llama-quantize").parent
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        raise Missing(f"llama.cpp was not built: {error}") from error
    return {"LLAMA_CPP_LIB_PATH": str(folder), "PYTHONPATH": str(tree.parent.parent)}


def versions() -> dict[str, str]:
    """What is installed there."""
    code = (
        "import importlib.metadata as m\n"
        "for n in ('torch', 'transformers', 'openvino', 'nncf', 'optimum-intel'): print(n, m.version(n))"
    )
    found = dict(line.split() for line in run([python(), "-c", code], "asking for versions").splitlines())
    return {"llama-cpp-python": peers.VERSION, **found}
