"""The rules of the house: who may import whom, what importing starts, where model names may stand."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import higgsx
from higgsx.codecs.table import BY_ID, CODECS

SOURCE = Path(higgsx.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

EVERYONE = {"errors", "units", "io", "jsontext", "lazy"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "io": set(),
    "jsontext": set(),
    "lazy": set(),
    "codecs": set(),
    "transforms": set(),
    "hgs": set(),
    "almpq": set(),
    "source": {"codecs"},
    "tasks": set(),
    "descriptor": {"codecs", "transforms"},
    "kernels": {"codecs", "transforms", "descriptor"},
    "rounding": {"codecs", "transforms", "descriptor"},
    "archive": {"hgs", "codecs", "transforms", "descriptor"},
    "nn": {"archive", "descriptor", "rounding", "codecs", "transforms", "kernels"},
    "runtime": {"archive", "kernels", "descriptor", "codecs", "transforms", "hgs"},
    "calibration": {"nn", "tasks", "transforms"},
    "fidelity": {"nn", "tasks"},
    "pipeline": {
        "almpq", "calibration", "fidelity", "source", "rounding", "codecs", "transforms", "descriptor", "hgs",
        "archive", "nn", "tasks",
    },
    "integrations": {
        "pipeline", "archive", "nn", "fidelity", "source", "tasks", "descriptor", "codecs", "kernels",
        "almpq", "runtime",
    },
    "report": {"archive", "fidelity"},
    "plots": {"almpq"},
    "unpacking": {"archive", "codecs", "kernels"},
    "api": {
        "report", "unpacking", "integrations", "pipeline", "archive", "nn", "fidelity", "source", "kernels",
        "hgs", "descriptor", "almpq", "runtime", "tasks",
    },
    "cli": {
        "", "api", "integrations", "pipeline", "archive", "nn", "fidelity", "kernels", "codecs", "runtime",
        "plots",
    },
    "demo": {"", "cli"},
    "": {"api", "integrations", "tasks"},
}  # fmt: skip
ONLY_IN = {
    "transformers": "integrations",
    "peft": "integrations",
    "accelerate": "integrations",
    "triton": "kernels",
}
NO_TORCH = ("hgs", "almpq", "errors", "units", "io", "jsontext", "lazy", "runtime")
MODEL_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "llama", "qwen",
               "gpt2", "gptj", "lm_head", "embed_tokens", "c_attn", "mistral", "whisper")  # fmt: skip
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "joblib", "dill"}


def room(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, wherever the statement stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
            if node.module == "higgsx":
                found |= {f"higgsx.{alias.name}" for alias in node.names}
    return found


def name(file: Path) -> str:
    return str(file.relative_to(SOURCE))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_who_imports_whom(file: Path) -> None:
    here = room(file)
    for imported in imports(file):
        if imported.split(".")[0] != "higgsx":
            continue
        parts = imported.split(".")
        there = parts[1] if len(parts) > 1 else ""
        if not (SOURCE / there).exists() and not (SOURCE / f"{there}.py").exists():
            there = ""  # a name of the package itself, such as the version
        if there == "" and imported != "higgsx":
            continue
        if there == "" and "import higgsx" not in file.read_text():
            continue
        allowed = {here} | EVERYONE | MAY_IMPORT[here]
        assert there in allowed, f"{here or 'the door'} must not import {there}"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_libraries_have_one_place(file: Path) -> None:
    for imported in imports(file):
        library = imported.split(".")[0]
        assert room(file) == ONLY_IN.get(library, room(file)), f"{library} belongs into {ONLY_IN[library]}"
        assert not (library == "torch" and room(file) in NO_TORCH)
        assert library not in FORBIDDEN_MODULES


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_runs_code_from_data(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS
        if isinstance(node, ast.Assert):
            raise AssertionError(f"{file}:{node.lineno}: a check in `assert` vanishes under -O")


@pytest.mark.parametrize("file", FILES, ids=name)
def test_no_model_names_outside_their_rooms(file: Path) -> None:
    if room(file) in ("runtime", "integrations"):
        return
    text = file.read_text().lower()
    text = text.replace("llama.cpp", "")  # the program, whose formats are named as such
    found = [word for word in MODEL_NAMES if word in text]
    assert not found, f"{found}: structure, not names"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


def test_one_line_per_codec() -> None:
    assert len({codec.id for codec in CODECS}) == len(CODECS) == len(BY_ID)
    files = {file.stem for file in (SOURCE / "codecs").glob("*.py")}
    for codec in CODECS:
        assert codec.id in files
        line = f"    {codec.__name__},\n"
        assert (SOURCE / "codecs" / "table.py").read_text().count(line) == 1


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_starts_nothing() -> None:
    code = (
        "import sys, threading; import higgsx; higgsx.errors; "
        "print(sorted({'transformers', 'peft', 'accelerate', 'psutil'} & set(sys.modules)), "
        "threading.active_count())"
    )
    assert python(code) == "[] 1"


def test_the_door_is_exact() -> None:
    code = (
        "import higgsx; print([n for n in higgsx.__all__ if getattr(higgsx, n) is None], "
        "dir(higgsx) == sorted(dir(higgsx)))"
    )
    assert python(code) == "[] True"
    assert sorted(higgsx.__all__, key=str.lower) == list(higgsx.__all__)
    assert len(higgsx.__all__) <= 20


@pytest.mark.parametrize("module", ["higgsx.archive", "higgsx.hgs.reader"])
def test_opening_a_file_needs_no_planner(module: str) -> None:
    heavy = "{'transformers', 'higgsx.pipeline', 'higgsx.almpq', 'higgsx.fidelity', 'higgsx.integrations'}"
    assert python(f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))") in (
        "[]",
        "['higgsx.integrations']",
    )
