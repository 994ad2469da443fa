"""Measures one contestant in a process of its own; prints one JSON object.

    python worker.py '{"engine": ..., "path": ..., "threads": 2, ...}'

Nothing is imported before the clock starts but what is needed to read the order; times of the process's
start and of the imports are reported apart from loading.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

FIRST = 32
"""Tokens of the prompt before the first token."""
LIMIT = 4.0
"""Seconds after which a slow contestant's decoding is cut short."""


def peak() -> int:
    """Peak resident bytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def prompt(length: int, vocabulary: int, at: int = 0) -> list[int]:
    """Reproducible token numbers without meaning."""
    return [(7 + 7919 * (at + 1) + 104729 * number) % vocabulary for number in range(length)]


def prefill(engine: Any, length: int, vocabulary: int) -> float:
    """Tokens a second of reading one prompt, the head for its last token included."""
    times = []
    for at in range(1 if length >= 256 else 2 if length >= 100 else 3):
        ids = prompt(length, vocabulary, at)
        begin = time.perf_counter()
        engine.start([ids])
        times.append(time.perf_counter() - begin)
    return length / statistics.median(times)


def decode(engine: Any, batch: int, length: int, steps: int, vocabulary: int) -> float:
    """Tokens a second in all sequences together, the choice of the likeliest included."""
    tokens = engine.start([prompt(length, vocabulary, at) for at in range(batch)])
    for _ in range(3):
        tokens = engine.step(tokens)
    begin = time.perf_counter()
    done = 0
    while done < steps:
        tokens = engine.step(tokens)
        done += 1
        if time.perf_counter() - begin > LIMIT:
            break
    return batch * done / (time.perf_counter() - begin)


def speed(order: dict[str, Any]) -> dict[str, Any]:
    spawned = order["spawned"]
    result: dict[str, Any] = {"start_s": time.monotonic() - spawned}
    begin = time.perf_counter()
    module = importlib.import_module(f"engines.{order['engine']}")
    result["import_s"] = time.perf_counter() - begin
    vocabulary, longest = order["vocabulary"], order["context"]
    begin = time.perf_counter()
    engine = module.Engine(order["path"], order["threads"], order.get("options", {}))
    engine.open(1, longest)
    result["load_s"] = time.perf_counter() - begin
    engine.start([prompt(FIRST, vocabulary)])
    result["first_token_s"] = time.perf_counter() - begin
    result["from_start_s"] = time.monotonic() - spawned
    if order.get("prefill") or order.get("decode"):
        engine.start([prompt(min(128, longest), vocabulary)])
    result["prefill"] = {str(n): prefill(engine, n, vocabulary) for n in order.get("prefill", ())}
    result["decode"] = {}
    for batch, steps in order.get("decode", ()):
        length = FIRST // 2
        if batch > 1:
            engine.open(batch, length + steps + 8)
        result["decode"][str(batch)] = decode(engine, batch, length, steps, vocabulary)
    result["peak_bytes"] = peak()
    return result


def main() -> None:
    order = json.loads(sys.argv[1])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    job = order.get("job", "speed")
    result = speed(order) if job == "speed" else importlib.import_module("jobs").JOBS[job](order)
    # a line of its own, whatever the runtime has printed
    print("\n" + json.dumps(result))
    sys.stdout.flush()
    # some runtimes crash while they are taken down
    os._exit(0)


if __name__ == "__main__":
    main()
