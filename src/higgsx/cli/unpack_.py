"""Write an ordinary model folder back, which transformers loads without this package."""

from __future__ import annotations

import argparse

import higgsx
from higgsx.cli.common import Bar, add_json, print_json
from higgsx.units import format_bytes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--force", action="store_true", help="write into a folder that exists")
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    with Bar(arguments.json) as bar:
        nbytes = higgsx.unpack(arguments.file, arguments.folder, force=arguments.force, progress=bar)
    if arguments.json:
        print_json({"folder": arguments.folder, "bytes": nbytes})
    else:
        print(f"{arguments.folder}: {format_bytes(nbytes)} of weights")
