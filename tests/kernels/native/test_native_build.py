"""What is compiled for which processor: nothing beyond x86-64 in what always runs, nothing of a higher
tier in a lower one; and the sources for Arm, run by an emulator where one is installed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import machine
import numpy as np
import pytest

import numerics
from higgsx.kernels import structs
from payloads import random_panels

ROOT = Path(__file__).parents[3]
ARM = "aarch64-linux-gnu"
WIDE = re.compile(r"%[yz]mm\d|%k[1-7]\b|%xmm(1[6-9]|2\d|3[01])")
"""Registers that only AVX and its successors have."""
BEYOND_AVX2 = re.compile(r"%zmm\d|%k[1-7]\b|%[xy]mm(1[6-9]|2\d|3[01])|\{evex\}")
FORBIDDEN = {
    "scalar": WIDE,
    "avx2": re.compile(BEYOND_AVX2.pattern + r"|vpdpbusd"),
    "avxvnni": BEYOND_AVX2,
    "avx512": re.compile(r"vpdpbusd|vpermb|vpermi2b|vpermt2b|vpmultishiftqb"),
    "vnni": re.compile(r"vpermb|vpermi2b|vpermt2b|vpmultishiftqb"),
    "vbmi": re.compile(r"\t(vdpbf16ps|vcvtne|tdp|tile|v(add|mul|fmadd\d+)ph)"),
}


def _tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"not installed: {' or '.join(names)}")


def _run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    text: str = done.stdout
    return text


def test_what_always_runs_needs_no_more_than_the_base_processor(tmp_path: Path) -> None:
    """Compiled as the build does it, then disassembled."""
    cmake, objdump = _tool("cmake"), _tool("objdump")
    _run(
        cmake, "-S", ROOT, "-B", tmp_path, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", "-DCMAKE_BUILD_TYPE=Release"
    )
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    baseline = [entry for entry in commands if Path(entry["file"]).parent == ROOT / "csrc"]
    assert len(baseline) >= 5
    if "x86-64" not in _run(objdump, "--info"):
        pytest.skip("not an x86-64 machine")
    for entry in baseline:
        words = shlex.split(entry["command"])
        assert not [word for word in words if word.startswith("-m")], entry["file"]
        words[words.index("-o") + 1] = target = str(tmp_path / "object.o")
        _run(*words, cwd=entry["directory"])
        found = [line for line in _run(objdump, "-d", target).splitlines() if WIDE.search(line)]
        assert not found, (entry["file"], found[:3])


def _functions(library: Path) -> list[tuple[str, list[str]]]:
    """Name and instructions of each function; skips where names were stripped."""
    text = _run(_tool("objdump"), "-d", "--no-show-raw-insn", library)
    parts = re.split(r"^[0-9a-f]+ <(.+)>:$", text, flags=re.MULTILINE)[1:]
    found = [(name, body.splitlines()) for name, body in zip(parts[::2], parts[1::2], strict=True)]
    if not any("6higgsx" in name for name, _ in found):
        pytest.skip("the library was stripped of names; HIGGSX_LIBRARY can name one of `make native`")
    return found


def test_no_tier_has_instructions_of_a_higher_one() -> None:
    found = _functions(machine.native.load().path)
    seen = set()
    for name, body in found:
        tier = re.search(r"6higgsx\d+(scalar|avx2|avxvnni|avx512|vnni|vbmi|neon)", name)
        kind = tier.group(1) if tier else "scalar"
        seen.add(kind)
        if kind not in FORBIDDEN:
            continue
        wrong = [line for line in body if FORBIDDEN[kind].search(line)]
        assert not wrong, (name, wrong[:3])
    assert "scalar" in seen


def test_no_code_is_shared_between_files() -> None:
    """Weak symbols are inline functions: the linker keeps one copy, perhaps one for another processor."""
    symbols = _run(_tool("nm"), "--defined-only", "-D", machine.native.load().path).splitlines()
    names = [line.split()[-1].partition("@")[0] for line in symbols]
    assert names and all(name.startswith("hgx_") for name in names), names
    local = _run(_tool("nm"), "--defined-only", machine.native.load().path).splitlines()
    weak = [line for line in local if len(line.split()) == 3 and line.split()[1] in "WVu"]
    assert not [line for line in weak if "higgsx" in line], weak[:5]


EMULATED = """
import ctypes, sys
from pathlib import Path
library_path, structs_path, folder = sys.argv[1:]
scope = {"__name__": "structs"}
exec(compile(Path(structs_path).read_text(), structs_path, "exec"), scope)
library = ctypes.CDLL(library_path)
for name in ("hgx_tier_name", "hgx_tier", "hgx_linear"):
    getattr(library, name).restype, getattr(library, name).argtypes = scope["PROTOTYPES"][name]
read = lambda name: ctypes.create_string_buffer((Path(folder) / name).read_bytes())
matrix = scope["Matrix"].from_buffer_copy((Path(folder) / "matrix").read_bytes())
data, rows, x = read("data"), read("rows"), read("x")
matrix.data, matrix.rows = ctypes.addressof(data), ctypes.addressof(rows)
y, scratch = ctypes.create_string_buffer(3 * matrix.outputs * 4), (ctypes.c_int64 * 8192)()
for mode in (1, 2, 4):
    status = library.hgx_linear(
        ctypes.addressof(matrix), 3, ctypes.addressof(x), 0, matrix.inputs, mode, None, ctypes.addressof(y),
        0, matrix.outputs, ctypes.addressof(scratch), ctypes.sizeof(scratch))
    assert status == 0
    (Path(folder) / f"y{mode}").write_bytes(y.raw)
print(library.hgx_tier().decode())
"""


@pytest.mark.parametrize(("processor", "tier"), [("Nehalem", "scalar"), ("Haswell", "avx2")])
def test_older_processors_in_an_emulator(tmp_path: Path, processor: str, tier: str) -> None:
    """The library loads, chooses what the processor has, and computes the same there."""
    emulator = _tool("qemu-x86_64", "qemu-x86_64-static")
    rng = np.random.default_rng(90)
    w = random_panels(rng, 40, 200, 5, 64, "u8", "f16")
    m, x = machine.matrix(w), rng.standard_normal((3, 200)).astype(np.float32)
    for name, content in (("matrix", bytes(m)), ("data", w.data), ("rows", w.rows), ("x", x)):
        (tmp_path / name).write_bytes(bytes(content))
    (tmp_path / "program.py").write_text(EMULATED)
    python = Path(sys.executable).resolve()
    arguments = (machine.native.load().path, structs.__file__, tmp_path)
    said = _run(emulator, "-cpu", processor, python, "-I", tmp_path / "program.py", *arguments)
    compiled = [machine.native.load().hgx_tier_name(index) for index in range(2)]
    assert said.strip() == (tier if tier.encode() in compiled else "scalar")
    for mode in (1, 2, 4):
        y = np.frombuffer((tmp_path / f"y{mode}").read_bytes(), np.float32).reshape(3, 40)
        assert numerics.same(y, numerics.multiply(w, numerics.prepare(w, x), mode))


def test_arm_equals_scalar_to_the_bit() -> None:
    """Cross-compiled with the NEON tier, and run by an emulator. The build folder is kept between runs."""
    cmake, compiler = _tool("cmake"), _tool(f"{ARM}-g++")
    emulator = _tool("qemu-aarch64", "qemu-aarch64-static")
    build = ROOT / "build" / "arm"
    _run(
        cmake, "-S", ROOT, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
        "-DHIGGSX_WERROR=ON", "-DHIGGSX_DRIVERS=ON",
    )  # fmt: skip
    _run(cmake, "--build", build, "--parallel")
    rounds = ("arguments", "50", "matrices", "60", "attention", "12", "programs", "2")
    said = _run(emulator, "-L", f"/usr/{ARM}", build / "csrc" / "tests" / "drivers", *rounds)
    assert "tiers: scalar neon" in said
