"""Continue a prompt with a compressed model."""

from __future__ import annotations

import argparse
import sys
import time

from higgsx.cli.common import add_json, print_json
from higgsx.cli.speaking import add_engine, add_generation, generation_of, since_start, speaker_of
from higgsx.errors import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("prompt", metavar="PROMPT", help="text to continue; - reads standard input")
    add_generation(parser)
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: each token's log-probability and N others"
    )
    add_engine(parser)
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    if arguments.logprobs is not None and not arguments.json:
        raise UsageError("log-probabilities are only written as JSON", got="--logprobs", remedy="add --json")
    settings = generation_of(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    speaker = speaker_of(arguments)
    show = None if arguments.json else lambda text: print(text, end="", flush=True)
    if show is not None:
        show(prompt)
    started, begin = since_start(), time.perf_counter()
    done = speaker.generate(prompt, settings=settings, on_text=show)
    if arguments.json:
        first = None if started is None else started + done.first
        print_json(
            {
                "file": arguments.file,
                "prompt": prompt,
                **done.to_json(),
                "total_s": time.perf_counter() - begin,
                "start_to_first_token_s": first,
                **speaker.to_json(),
            }
        )
        return
    print()
    print(done.summary(), file=sys.stderr)
