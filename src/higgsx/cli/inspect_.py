"""Show what is in a file: tensors, codes, bytes, damage."""

from __future__ import annotations

import argparse

import higgsx
from higgsx.cli.common import add_json, print_json, table
from higgsx.fidelity.render import render
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    report = higgsx.inspect(arguments.file)
    if arguments.json:
        print_json(report.to_json())
        return
    rows = [
        (
            row.name,
            row.code,
            "x".join(map(str, row.shape)),
            f"{row.bits:.3f}",
            format_bytes(row.nbytes),
            row.why,
        )
        for row in report.tensors
    ]
    print(table(rows, ("tensor", "code", "shape", "bits", "bytes", "why exact"), left=2, words=1))
    print()
    print("\n".join(report.summary()))
    if report.damage is not None:
        print()
        print("\n".join(render(report.damage)))
