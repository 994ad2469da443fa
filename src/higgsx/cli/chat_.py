"""Talk with a compressed model, in its own chat template."""

from __future__ import annotations

import argparse
import sys

from higgsx.cli.speaking import add_engine, add_generation, generation_of, speaker_of
from higgsx.errors import TextError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--system", help="system message")
    add_generation(parser)
    add_engine(parser)


def main(arguments: argparse.Namespace) -> None:
    settings = generation_of(arguments)
    chat = speaker_of(arguments).chat(arguments.system)
    terminal = sys.stdin.isatty()
    if terminal:
        print("Type a message; an empty line or Ctrl-D ends.", file=sys.stderr)
    while message := _ask(terminal):
        try:
            done = chat.say(message, settings=settings, on_text=_show)
        except TextError as error:
            print(f"higgsx: {error}", file=sys.stderr)
            continue
        print()
        print(f"({done.summary()})", file=sys.stderr)


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _ask(terminal: bool) -> str:
    if terminal:
        print("\n> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
