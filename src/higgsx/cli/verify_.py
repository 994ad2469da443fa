"""Read every byte of a file and name what is damaged."""

from __future__ import annotations

import argparse

import higgsx
from higgsx.cli.common import Bar, add_json, print_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    add_json(parser)


def main(arguments: argparse.Namespace) -> int:
    with Bar(arguments.json) as bar:
        damaged = higgsx.verify(arguments.file, progress=bar)
    if arguments.json:
        print_json({"file": arguments.file, "intact": not damaged, "damaged": damaged})
    elif damaged:
        print("\n".join(f"damaged: {name}" for name in damaged))
    else:
        print("intact: every byte is as it was written")
    return 1 if damaged else 0
