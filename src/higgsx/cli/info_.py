"""Show versions, this machine, and which kernels are used and why."""

from __future__ import annotations

import argparse
import os
import platform

import psutil
import torch

from higgsx import __version__
from higgsx.cli.common import add_json, print_json, table
from higgsx.codecs.table import CODECS
from higgsx.kernels import native
from higgsx.kernels.precision import current
from higgsx.kernels.select import describe
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    choices = describe(tuple(codec.id for codec in CODECS))
    facts: dict[str, object] = {
        "higgsx": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "cuda": torch.cuda.is_available(),
        **_native(),
    }
    if arguments.json:
        print_json({**facts, "kernels": [vars(choice) for choice in choices]})
        return
    for name, value in facts.items():
        shown = format_bytes(value) if isinstance(value, int) and name == "memory" else value
        print(f"{name:9} {', '.join(shown) if isinstance(shown, list) else shown}")
    print()
    rows = [(c.op, c.family, c.device, c.kernel, c.reason) for c in choices]
    print(table(rows, ("operation", "codec", "device", "kernel", "why"), left=5))


def _native() -> dict[str, object]:
    """The native library: where it is, how it computes; or why there is none."""
    missing = native.available()
    if missing is not None:
        return {"native": f"no: {missing}"}
    library = native.load()
    return {
        "native": str(library.path),
        "tier": library.tier,
        "tiers": library.tiers(),
        "threads": library.threads,
        "precision": current(),
    }
