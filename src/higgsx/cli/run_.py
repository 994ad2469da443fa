"""Continue a prompt with a compressed model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import higgsx
from higgsx.cli.common import add_json, amount, count, print_json

if TYPE_CHECKING:
    from higgsx.integrations.hf.generate import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue; - reads standard input")
    add_generation(parser)
    parser.add_argument(
        "--packed", action="store_true", help="keep the weights compressed: little memory, slow"
    )
    add_json(parser)


def add_generation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", "--max-tokens", type=count, default=256, help="tokens to write at most (default 256)"
    )
    parser.add_argument(
        "--temperature", type=amount, default=0.0, help="0: always the likeliest token (default)"
    )
    parser.add_argument(
        "--top-p", type=amount, default=1.0, help="keep the likeliest tokens up to this share"
    )
    parser.add_argument("--top-k", type=int, default=0, help="keep this many likeliest tokens, 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing (default 0)")


def generation_of(arguments: argparse.Namespace) -> Settings:
    from higgsx.integrations.hf.generate import Settings

    names = ("max_tokens", "temperature", "top_p", "top_k", "seed")
    return Settings(**{name: getattr(arguments, name) for name in names})


def main(arguments: argparse.Namespace) -> None:
    from higgsx.integrations.hf.generate import generate

    settings = generation_of(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    model, tokenizer = higgsx.load(arguments.file, packed=arguments.packed or None)
    show = None if arguments.json else lambda text: print(text, end="", flush=True)
    if show is not None:
        show(prompt)
    done = generate(model, tokenizer, prompt, settings=settings, on_text=show)
    if arguments.json:
        print_json({"file": arguments.file, "prompt": prompt, **done.to_json()})
        return
    print()
    print(done.summary(), file=sys.stderr)
