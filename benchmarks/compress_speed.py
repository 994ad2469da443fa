"""Time and memory of compressing, against llama.cpp's quantization of the same model in the same run.

    python benchmarks/compress_speed.py [MODEL] [--rounds 3]

Interleaved rounds, medians. Besides: opening a file, verifying it, importing the package.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import folder_of, machine, markdown, present
from peers import gguf_of, tool

BITS = "4.25"
TYPE = "Q4_K_M"


def timed(command: list[str]) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of a command; it must succeed."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        message = child.stderr.read().decode() if child.stderr else ""
        raise SystemExit(f"{command[0]} failed: {message[-400:]}")
    return seconds, usage.ru_maxrss * 1024


def python(code: str) -> float:
    """The number that a fresh interpreter prints."""
    return float(
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    )


OPEN = """
import time, higgsx.archive as a
begin = time.perf_counter(); a.Archive.open({path!r}); print(time.perf_counter() - begin)
"""
IMPORT = "import time, torch; begin = time.perf_counter(); import higgsx; print(time.perf_counter() - begin)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="qwen2.5-coder-1.5b")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not present([arguments.model]):
        raise SystemExit(1)
    source = folder_of(arguments.model)
    quantize, gguf = tool("llama-quantize"), gguf_of(source)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as place:
        file, other = Path(place) / "ours.hgs", Path(place) / "theirs.gguf"
        higgsx = [sys.executable, "-m", "higgsx.cli", "compress", str(source), "--bits", BITS, "--no-check"]
        for _ in range(arguments.rounds):
            ours.append(timed([*higgsx, "-o", str(file), "--force"]))
            theirs.append(timed([str(quantize), str(gguf), str(other), TYPE, str(os.cpu_count())]))
        opening = statistics.median(python(OPEN.format(path=str(file))) for _ in range(5))
        verify = [timed([sys.executable, "-m", "higgsx.cli", "verify", str(file)])[0] for _ in range(3)]
        nothing = statistics.median(
            timed([sys.executable, "-m", "higgsx.cli", "info", "--json"])[0] for _ in range(3)
        )
        sizes = file.stat().st_size, other.stat().st_size
    importing = statistics.median(python(IMPORT) for _ in range(5))
    rows = []
    for name, runs, size in (
        ("higgsx " + BITS + " bits", ours, sizes[0]),
        ("llama.cpp " + TYPE, theirs, sizes[1]),
    ):
        seconds = [run[0] for run in runs]
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        peak = max(run[1] for run in runs)
        rows.append(
            (name, f"{statistics.median(seconds):.1f}", spread, f"{peak / 1e9:.2f}", f"{size / 1e6:.0f}")
        )
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    print(f"{machine()}; {arguments.model}, {arguments.rounds} interleaved rounds\n")
    print(markdown(rows, ("", "median s", "spread", "peak RAM GB", "file MB")))
    rate = sizes[0] / 1e9 / max(1e-9, statistics.median(verify) - nothing)
    print(
        f"\ntime ratio {ratio:.2f}; opening {opening * 1000:.0f} ms; verify {rate:.2f} GB/s beyond start-up;"
    )
    print(f"import higgsx {importing * 1000:.0f} ms beyond torch")
    print(
        json.dumps({"ratio": ratio, "peak_ram": max(run[1] for run in ours), "open_s": opening}),
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
