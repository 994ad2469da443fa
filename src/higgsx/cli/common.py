"""What the verbs share: printing, progress, options of a budget."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any


def count(text: str) -> int:
    """A whole number of 1 or more."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"not a number of 1 or more: {text!r}")
    return number


def amount(text: str) -> float:
    """A finite number of 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"not a number of 0 or more: {text!r}")
    return number


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on standard output and nothing else"
    )


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder or a Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--token", help="token of a private Hub id")


def add_budget(parser: argparse.ArgumentParser) -> None:
    from higgsx.pipeline.options import ALLOW, POLICIES

    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--bits", help="average bits of a weight, all bytes of the matrices counted (default 4.25)"
    )
    budget.add_argument("--size", help="size of the finished file: 800MB, 1.5GiB")
    budget.add_argument(
        "--max-kl", metavar="KL", help="the smallest file that loses at most this (nats per token), measured"
    )
    parser.add_argument(
        "--policy", choices=POLICIES, default="free", help="hybrid: inputs and outputs stay exact"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="tensors that stay exact"
    )
    parser.add_argument(
        "--allow", default="", metavar="CODE,…", help=f"use only these codes: {', '.join(ALLOW)}"
    )
    parser.add_argument("--method", default="rtn", help="how codes are chosen (default rtn)")
    parser.add_argument(
        "--gradients", action="store_true", help="learn from the model's own text which weights matter"
    )
    parser.add_argument(
        "--calibration", metavar="FILE", help="learn from this material instead (text, clips, pairs …)"
    )
    parser.add_argument(
        "--calibration-tokens", type=count, metavar="N", help="learn from so many tokens (default 8192)"
    )
    parser.add_argument(
        "--table", metavar="FILE", help="keep the cost table here, or use the one that is there"
    )


def budget_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "bits": arguments.bits,
        "size": arguments.size,
        "policy": arguments.policy,
        "keep": tuple(arguments.keep),
        "allow": tuple(word.strip() for word in arguments.allow.split(",") if word.strip()),
        "method": arguments.method,
        "max_kl": arguments.max_kl,
        "gradients": arguments.gradients,
        "calibration": arguments.calibration,
        "calibration_tokens": arguments.calibration_tokens,
        "table": arguments.table,
    }


def print_json(data: object) -> None:
    print(json.dumps(data, indent=1))


def table(rows: Sequence[Sequence[object]], head: Sequence[str], left: int = 1, words: int = 0) -> str:
    """Columns aligned: the first `left` and the last `words` to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in text) for column in range(len(head))]
    lines = []
    for row in text:
        cells = [
            cell.ljust(width) if column < left or column >= len(head) - words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Bar:
    """One line of progress on standard error with the time that is left; silent when it is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._stage, self._begin, self._shown = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self.close()
            self._stage, self._begin, self._shown = stage, now, 0.0
        if not self._on or (now - self._shown < 0.2 and done < total):
            return
        self._shown = now
        passed = now - self._begin
        share = done / total if total else 1.0
        left = f", {_clock(passed / share * (1 - share))} left" if 0.02 < share < 1 else ""
        print(f"\r\x1b[K{stage}: {share:4.0%} in {_clock(passed)}{left}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._on and self._stage:
            print(file=sys.stderr)
        self._stage = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes}:{rest:02d}"
