"""Child processes, one for each contestant and round, interleaved; what went wrong is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cpu.contestants import Contestant

WORKER = Path(__file__).parent / "child" / "worker.py"
"""In a folder of its own: what lies beside it can be imported by every runtime."""
TIMEOUT = 420
PATIENCE = 2
"""Failures of one contestant after which it is left alone."""
_DROP = Path("/proc/sys/vm/drop_caches")

Result = dict[str, Any]


def call(
    order: Mapping[str, Any], program: str = sys.executable, variables: Mapping[str, str] | None = None
) -> Result:
    """What a child measured, or {"error": ...}."""
    threads = str(order["threads"])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HIGGSX_THREADS", "OPENBLAS_NUM_THREADS")
    own = {**os.environ, **dict.fromkeys(names, threads), "HF_HUB_OFFLINE": "1", **(variables or {})}
    command = [program, str(WORKER), json.dumps({**order, "spawned": time.monotonic()})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=own, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {TIMEOUT} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode < 0:
        return {"error": f"crashed: {signal.Signals(-done.returncode).name}"}
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1][:300] if lines else f"exit {done.returncode}"}
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def inside(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def drop(path: Path, whole: bool) -> str:
    """Out of the page cache: everything where that is allowed and wanted, else this path's files."""
    os.sync()
    if whole:
        try:
            _DROP.write_text("3\n")
            return "drop_caches"
        except OSError:
            pass
    for file in inside(path):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return "posix_fadvise"


def disk(path: Path, most: int = 1 << 28) -> float:
    """Bytes a second read from a file that is not in the page cache."""
    file = max(inside(path), key=lambda one: one.stat().st_size)
    drop(file, False)
    begin, done = time.perf_counter(), 0
    with open(file, "rb", buffering=0) as source:
        while done < most and (part := source.read(1 << 23)):
            done += len(part)
    return done / (time.perf_counter() - begin)


class Rounds:
    """Runs them and keeps every result: results[key] is a list with one entry for each round."""

    def __init__(self, threads: int, whole: bool, slow_rounds: int) -> None:
        """whole: the whole page cache may be dropped; slow_rounds: in which slow contestants take part."""
        self.threads, self.whole, self.slow_rounds = threads, whole, slow_rounds
        self.results: dict[str, list[Result]] = {}
        self.machine: list[Result] = []
        self.failures: dict[str, int] = {}
        self.how = "not at all"

    def run(self, contestants: Sequence[Contestant], rounds: int, work: Mapping[str, Any]) -> None:
        """work: vocabulary, context, prefill, decode of the order."""
        for number in range(rounds):
            probe = call({"job": "probe", "threads": self.threads})
            if work.get("cold") and contestants:
                probe["disk"] = disk(contestants[0].path)
            self.machine.append(probe)
            # another order every time, so that nobody always follows the same one
            turn = number * 5 % max(1, len(contestants))
            for one in [*contestants[turn:], *contestants[:turn]]:
                self._one(one, number, work)

    def _one(self, one: Contestant, number: int, work: Mapping[str, Any]) -> None:
        if self.failures.get(one.key, 0) >= PATIENCE or (one.slow and number >= self.slow_rounds):
            return
        order = {
            "engine": one.engine, "path": str(one.path), "options": one.options,
            "threads": one.threads or self.threads,
            "vocabulary": work["vocabulary"], "context": work["context"],
        }  # fmt: skip
        begin = time.perf_counter()
        found: Result = {"round": number}
        if work.get("cold") and one.cold:
            self.how = drop(one.path, self.whole)
            cold = call(order, one.program, one.variables)
            if "error" in cold:
                found["error"] = cold["error"]
            else:
                found["cold"] = cold
        if "error" not in found:
            order |= {"prefill": work["prefill"], "decode": work["decode"]}
            found |= call(order, one.program, one.variables)
        self.failures[one.key] = self.failures.get(one.key, 0) + 1 if "error" in found else 0
        self.results.setdefault(one.key, []).append(found)
        seconds = time.perf_counter() - begin
        print(f"round {number + 1}, {one.key}: {_short(found)} ({seconds:.0f} s)", file=sys.stderr)


def _short(found: Result) -> str:
    if "error" in found:
        return str(found["error"])
    decode = ", ".join(f"{speed:.1f} at {batch}" for batch, speed in found["decode"].items())
    prefill = ", ".join(f"{speed:.0f} at {length}" for length, speed in found["prefill"].items())
    return f"decode {decode}; prefill {prefill}; first token {found['first_token_s']:.2f} s"
