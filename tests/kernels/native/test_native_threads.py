"""The pool: forks, callers at once, borrowed threads, changes of the number of threads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

import machine
import numpy as np
from guarded import in_child

import numerics
from higgsx.kernels import structs
from numerics import FLOAT, INT8, same
from payloads import random_panels

_rng = np.random.default_rng(70)
_w = random_panels(_rng, 700, 512, 4, 32, "u8", width=64)
_x = _rng.standard_normal((9, 512)).astype(np.float32)


def _expected() -> np.ndarray:
    return numerics.multiply(_w, numerics.prepare(_w, _x), INT8)


def test_after_a_fork() -> None:
    """The child has no workers, and makes its own; so does its child; the parent keeps its own."""
    m, expected = machine.matrix(_w), _expected()

    def product(threads: int) -> None:
        with machine.using(threads=threads):
            assert same(machine.linear(m, _x, INT8), expected)

    def child(say: Callable[[str], None]) -> None:
        for threads in (3, 1, 4):
            say(f"child with {threads} threads")
            product(threads)
        in_child(lambda _: product(2))
        product(3)

    product(4)
    for _ in range(3):
        in_child(child)
        product(3)


def test_a_fork_while_others_compute() -> None:
    m, expected, stop = machine.matrix(_w), _expected(), threading.Event()
    failures: list[str] = []

    def compute() -> None:
        while not stop.is_set():
            if not same(machine.linear(m, _x, INT8), expected):
                failures.append("wrong product")

    with machine.using(threads=3):
        callers = [threading.Thread(target=compute) for _ in range(2)]
        for caller in callers:
            caller.start()
        try:
            for _ in range(8):
                in_child(lambda _: machine.ok(0 if same(machine.linear(m, _x, INT8), expected) else 1), 30)
        finally:
            stop.set()
            for caller in callers:
                caller.join()
    assert not failures


def test_several_callers_at_once() -> None:
    m, expected = machine.matrix(_w), _expected()
    rows = numerics.decode(_w)
    wrong: list[str] = []

    def caller(number: int) -> None:
        for turn in range(30):
            if not same(machine.linear(m, _x[: 1 + turn % 9], INT8), expected[: 1 + turn % 9]):
                wrong.append("product")
            if not same(machine.decode(m, number, 600), rows[number : number + 600]):
                wrong.append("values")

    with machine.using(threads=2):
        callers = [threading.Thread(target=caller, args=(number,)) for number in range(5)]
        for thread in callers:
            thread.start()
        for turn in range(40):
            machine.ok(machine.call("hgx_set_threads", 1 + turn % 5))
            time.sleep(0.001)
        for thread in callers:
            thread.join()
    assert not wrong


def test_borrowed_threads() -> None:
    """Work runs on whatever threads the lender gives: all of them, fewer, or one after another."""
    m, expected = machine.matrix(_w), _expected()
    body_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    lender_type = ctypes.CFUNCTYPE(None, body_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    count_type = ctypes.CFUNCTYPE(ctypes.c_int)
    index = threading.local()
    teams: list[int] = []

    def lender_of(given: Callable[[int], int]) -> Callable[..., None]:
        def lend(body: Callable[[object], None], data: object, threads: int, _: int) -> None:
            team = given(threads)
            teams.append(team)

            def member(number: int) -> None:
                index.number, index.team = number, team
                body(data)

            others = [threading.Thread(target=member, args=(number,)) for number in range(1, team)]
            for other in others:
                other.start()
            member(0)
            for other in others:
                other.join()

        return lend

    number, team = count_type(lambda: index.number), count_type(lambda: index.team)
    with machine.using(threads=4):
        for given in (lambda wanted: wanted, lambda wanted: 1, lambda wanted: min(2, wanted)):
            lend = lender_type(lender_of(given))
            cast = [ctypes.cast(function, ctypes.c_void_p) for function in (lend, number, team)]
            machine.ok(machine.call("hgx_borrow_threads", *cast))
            try:
                teams.clear()
                assert same(machine.linear(m, _x, INT8), expected)
                assert teams, "the borrowed threads were not asked"
            finally:
                machine.ok(machine.call("hgx_borrow_threads", None, None, None))
        teams.clear()
        assert same(machine.linear(m, _x, INT8), expected) and not teams


def test_threads_that_are_asked_for_do_work() -> None:
    """With three threads wanted the process has three, and they end when fewer are wanted."""

    def tasks() -> int:
        return len(os.listdir("/proc/self/task"))

    def body(say: Callable[[str], None]) -> None:
        m = machine.matrix(random_panels(np.random.default_rng(71), 4000, 1024, 8, 0, "row"))
        x = np.ones((16, 1024), np.float32)
        machine.call("hgx_set_threads", 1)
        machine.linear(m, x, FLOAT)
        alone = tasks()
        machine.call("hgx_set_threads", 3)
        machine.linear(m, x, FLOAT)
        assert tasks() == alone + 2
        machine.call("hgx_set_threads", 2)
        machine.linear(m, x, FLOAT)
        assert tasks() == alone + 1

    if os.path.isdir("/proc/self/task"):
        in_child(body)


def test_a_library_that_nobody_uses_starts_nothing() -> None:
    import subprocess
    import sys

    program = (
        "import os\n"
        "from higgsx.kernels import native\n"
        "native.load()\n"
        "assert len(os.listdir('/proc/self/task')) == BEFORE, os.listdir('/proc/self/task')\n"
    )
    if not os.path.isdir("/proc/self/task"):
        return
    # NumPy brings threads of its own unless it is told not to
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", program.replace("BEFORE", "1")], check=True, env=environment)


def test_probes() -> None:
    library = machine.native.load()
    data = np.arange(1 << 16, dtype=np.uint8)
    for threads in (1, 3):
        with machine.using(threads=threads):
            sums = {library.hgx_probe_read(data.ctypes.data, size) for size in (data.nbytes, data.nbytes)}
            assert len(sums) == 1
            changed = data.copy()
            changed[77] ^= 1
            assert library.hgx_probe_read(changed.ctypes.data, changed.nbytes) not in sums
            assert library.hgx_probe_multiply(1000) > 0
    assert library.hgx_abi() == structs.ABI
