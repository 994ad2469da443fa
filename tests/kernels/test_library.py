"""Finding, loading and setting up the native library; structures as the header has them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from interpreter import python

from higgsx import io
from higgsx.errors import UsageError
from higgsx.kernels import native, precision, structs

HEADER = Path(__file__).parents[2] / "csrc" / "higgsx.h"
HERE = str(Path(__file__).parent)
here = pytest.mark.skipif(native.available() is not None, reason=f"no native kernels: {native.available()}")
ASK = """
import sys
from higgsx.kernels import native
missing = native.available()
library = None if missing else native.load()
print(missing, library and library.tier, library and library.threads, "torch" in sys.modules)
"""


def test_structures_have_the_fields_of_the_header() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    pairs = {
        "hgx_matrix": structs.Matrix,
        "hgx_step": structs.Step,
        "hgx_state": structs.State,
        "hgx_strides": structs.Strides,
    }
    for name, structure in pairs.items():
        body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", text, re.DOTALL)
        assert body is not None
        fields = []
        for line in body[1].split(";"):
            kind, _, names = line.strip().partition(" ")
            pointer = "*" in names or kind == "const"
            for one in re.findall(r"(\w+)(?:\[\d+\])?\s*(?:,|$)", names):
                fields.append((one, 8 if pointer or kind == "int64_t" else {"int8_t": 32}.get(kind, 4)))
        ours = [(field[0].rstrip("_"), getattr(structure, field[0]).size) for field in structure._fields_]
        assert ours == fields


def test_constants_and_functions_are_those_of_the_header() -> None:
    text = HEADER.read_text()
    assert int(re.search(r"#define HGX_ABI (\d+)", text)[1]) == structs.ABI
    for name, value in re.findall(r"HGX_(\w+) = (\d+)", text):
        assert getattr(structs, name) == int(value), name
    declared = set(
        re.findall(r"^(?:int|int64_t|uint64_t|const char \*)\s?\*?(hgx_\w+)\(", text, re.MULTILINE)
    )
    assert declared == set(structs.PROTOTYPES)
    for name in declared:
        assert arguments(text[text.index(f"{name}(") + len(name) :]) == len(structs.PROTOTYPES[name][1]), name


def arguments(text: str) -> int:
    """How many there are between the parenthesis that `text` begins with and its end."""
    depth = commas = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        commas += letter == "," and depth == 1
        if depth == 0:
            return 0 if text[1:place] == "void" else commas + 1
    raise AssertionError("no end")


@here
def test_it_loads_without_torch_and_with_sensible_settings() -> None:
    missing, tier, threads, torch = python(ASK).split()
    assert missing == "None" and torch == "False"
    assert tier in native.load().tiers() and 1 <= int(threads) <= len(os.sched_getaffinity(0))


@here
def test_variables_decide() -> None:
    tiers = native.load().tiers()
    assert tiers[0] == "scalar"
    assert python(ASK, HIGGSX_TIER="scalar", HIGGSX_THREADS="7").split() == ["None", "scalar", "7", "False"]
    assert python(ASK, HIGGSX_TIER=tiers[-1]).split()[1] == tiers[-1]


@here
@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HIGGSX_TIER", "avx3", "HIGGSX_TIER: this tier cannot run here, got avx3, expected scalar"),
        ("HIGGSX_THREADS", "many", "HIGGSX_THREADS: not a number of threads, got 'many'"),
        ("HIGGSX_THREADS", "0", "HIGGSX_THREADS: not a number of threads"),
        ("HIGGSX_THREADS", "-1", "HIGGSX_THREADS: not a number of threads"),
        ("HIGGSX_THREADS", "9" * 30, "HIGGSX_THREADS: not a number of threads"),
    ],
)
def test_a_variable_that_says_nonsense_is_an_error(variable: str, value: str, message: str) -> None:
    assert message in python(ASK, **{variable: value})


@here
def test_pool_and_precision_that_do_not_exist() -> None:
    product = (
        f"import sys; sys.path.insert(0, {HERE!r}); import torch; from packed_samples import CODECS, packed; "
        "from higgsx.kernels import ops; print(ops.linear(torch.ones(1, 200), packed(CODECS[0])).shape)"
    )
    assert python(product, HIGGSX_POOL="own") == python(product) == "torch.Size([1, 37])"
    assert "HIGGSX_POOL: no such pool, got ours, expected torch, own" in python(product, HIGGSX_POOL="ours")
    message = "HIGGSX_PRECISION: no such precision, got int4, expected int8, fast, float"
    assert message in python(product, HIGGSX_PRECISION="int4")
    with pytest.raises(UsageError, match="no such precision"), precision.precision("double"):
        pass


def test_a_library_that_is_not_there_is_a_reason() -> None:
    assert python(ASK, HIGGSX_LIBRARY="/nowhere/at/all.so").startswith("HIGGSX_LIBRARY: /nowhere/at/all.so")


@pytest.mark.parametrize("what", ["text", "foreign"])
def test_a_file_that_is_another_library_is_a_reason(what: str, tmp_path: Path) -> None:
    import _ctypes

    path = tmp_path / "other.so"
    path.write_bytes(b"no library" if what == "text" else Path(_ctypes.__file__).read_bytes())
    found = python(ASK, HIGGSX_LIBRARY=str(path))
    assert found.endswith("None None False") and not found.startswith("None")


def test_without_the_library_packed_products_warn_once() -> None:
    code = """
import sys, warnings
sys.path.insert(0, {path!r})
import torch
from packed_samples import CODECS, packed
from higgsx.errors import SlowWarning
from higgsx.kernels import ops
weight = packed(CODECS[0])
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    ops.decode(weight)
    quiet = len(seen)
    ops.linear(torch.ones(1, 200), weight)
    ops.matmul(torch.ones(1, 200), weight)
names = [one.category.__name__ for one in seen]
print(quiet, names, "no native kernels (HIGGSX_LIBRARY" in str(seen[0].message))
"""
    code = code.format(path=HERE)
    assert python(code, HIGGSX_LIBRARY="/nowhere.so") == "0 ['SlowWarning'] True"


def test_threads_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.THREADS, raising=False)
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000"}
    for cpu in range(8):
        files[f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = f"{cpu % 4},{cpu % 4 + 4}"
    monkeypatch.setattr(io, "system_text", lambda path: files.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert native.wanted_threads() == 2  # time for one and a half
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert native.wanted_threads() == min(4, os.cpu_count() or 4)  # of eight processors two share each core
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4})
    assert native.wanted_threads() == 1
    files.clear()
    assert native.wanted_threads() == min(2, os.cpu_count() or 2)
    monkeypatch.setenv(native.THREADS, "5")
    assert native.wanted_threads() == 5
