"""Freed memory stays, unless somebody said otherwise."""

from __future__ import annotations

import os
import platform

import pytest
from interpreter import python

FAULTS = """
import resource
import torch
from higgsx.kernels import heap

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        [torch.ones(6 << 20) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = heap.keep()
faults(6)
print(kept, faults(10))
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc: nothing is changed")


UNSET = dict.fromkeys(
    ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "HIGGSX_HEAP")
)


def faults(**variables: str) -> tuple[str, int]:
    kept, count = python(FAULTS, **{**UNSET, **variables}).split()
    return kept, int(count)


@glibc
def test_results_of_torch_take_the_pages_of_those_before() -> None:
    kept, few = faults()
    assert kept == "True" and few < 100


@glibc
def test_what_was_set_stays() -> None:
    kept, many = faults(MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept == "False" and many > 1000
    assert faults(MALLOC_TRIM_THRESHOLD_="1000000")[0] == "False"


@glibc
def test_the_system_decides_if_that_is_wanted() -> None:
    assert faults(HIGGSX_HEAP="system")[0] == "False"


@glibc
def test_a_product_keeps_memory() -> None:
    product = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import torch; "
        "from packed_samples import CODECS, packed; from higgsx.kernels import heap, native, ops; seen = []; "
        "heap.keep = lambda: seen.append(1); "
        "[ops.linear(torch.ones(1, 200), packed(CODECS[0])) for _ in 'ab']; "
        "print(len(seen), native.available() is None)"
    )
    assert python(product).split() in (["1", "True"], ["0", "False"])


def test_a_heap_that_does_not_exist() -> None:
    said = python("from higgsx.kernels import heap; heap.keep()", HIGGSX_HEAP="mine")
    assert "HIGGSX_HEAP: no such heap, got mine, expected keep, system" in said
