"""What the benchmarks share: where models and texts lie, what machine this is, tables in Markdown."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "models"
REAL = Path(os.environ.get("HIGGSX_MODELS", "~/.cache/higgsx-models")).expanduser()
REAL_MODELS = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
SMALL_MODELS = ("stories260k", "tales-1m", "llama-en-5m", "gpt2-en-5m", "opt-en-5m", "llama-ru-5m")

_DATA = SHARED / "data"
_TEXTS = {
    "stories260k": {"stories": _DATA / "stories260k" / "test.txt"},
    "tales-1m": {"tales": _DATA / "tales" / "test.txt"},
    "llama-ru-5m": {"ru": _DATA / "text-ru" / "test.txt"},
}


def folder_of(name: str) -> Path:
    """Folder of a model; it may not exist."""
    return REAL / name if name in REAL_MODELS else SHARED / name


def texts_of(name: str) -> dict[str, Path]:
    """Held-back texts of a model by the name of their domain."""
    if name in REAL_MODELS:
        code = REAL / "text-code" / "test.txt"
        return {"en": _DATA / "text-en" / "test.txt", "ru": _DATA / "text-ru" / "test.txt", "code": code}
    return _TEXTS.get(name, {"en": _DATA / "text-en" / "test.txt"})


def present(names: Iterable[str]) -> list[str]:
    """Those that are there; the others are named on standard error."""
    found = []
    for name in names:
        if (folder_of(name) / "config.json").is_file():
            found.append(name)
        else:
            print(f"{name}: not here, left out (see ../shared/models/real/prepare.py)", file=sys.stderr)
    return found


def machine() -> str:
    """One line: processor, cores, versions."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def markdown(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
