"""Measure what a file lost against its original, on your own text, clips, pairs or pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import higgsx
from higgsx.cli.common import Bar, add_json, count, print_json
from higgsx.errors import UsageError
from higgsx.fidelity.render import render

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--against", required=True, metavar="MODEL", help="the original: a folder or a Hub id"
    )
    parser.add_argument(
        "files", nargs="*", metavar="[NAME=]FILE",
        help="right after FILE, what the model works on: UTF-8 text; wav files, a folder or a list of them; "
        "pairs (source, tab, target); a folder of pictures",
    )  # fmt: skip
    parser.add_argument("--text", action="append", default=[], metavar="[NAME=]FILE", help="the same")
    parser.add_argument("--window", type=count, help="tokens of a window (default 512, if the model can)")
    parser.add_argument("--windows", type=count, help="at most so many windows (clips, batches) of each file")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="arithmetic of both models (default fp32)"
    )
    parser.add_argument(
        "--no-floor", action="store_true", help="do not measure the noise floor (bf16 against fp32)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--token", help="token of a private Hub id")
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    with Bar(arguments.json) as bar:
        damage = higgsx.evaluate(
            arguments.file,
            arguments.against,
            _named([*arguments.files, *arguments.text]),
            window=arguments.window,
            windows=arguments.windows,
            dtype=DTYPES[arguments.dtype],
            floor=not arguments.no_floor and arguments.dtype == "fp32",
            revision=arguments.revision,
            token=arguments.token,
            progress=bar,
        )
    if arguments.json:
        print_json({"file": arguments.file, "against": arguments.against, **damage.to_json()})
    else:
        print("\n".join(render(damage)))


def _named(files: list[str]) -> dict[str, Path] | None:
    named: dict[str, Path] = {}
    for file in files:
        name, mark, path = file.partition("=")
        name, path = (name, path) if mark else (Path(file).stem, file)
        if name in named:
            raise UsageError("two files have one name", got=name, remedy="write NAME=FILE")
        named[name] = Path(path)
    return named or None
