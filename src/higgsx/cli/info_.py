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
from higgsx.kernels.select import describe
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    choices = describe(tuple(codec.id for codec in CODECS))
    facts = {
        "higgsx": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "cuda": torch.cuda.is_available(),
    }
    if arguments.json:
        print_json({**facts, "kernels": [vars(choice) for choice in choices]})
        return
    for name, value in facts.items():
        print(f"{name:8} {format_bytes(value) if name == 'memory' else value}")
    print()
    rows = [(c.op, c.family, c.device, c.kernel, c.reason) for c in choices]
    print(table(rows, ("operation", "codec", "device", "kernel", "why"), left=5))
