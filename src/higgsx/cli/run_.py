"""Let a compressed model work: continue a prompt, turn a source text into another, or write down speech."""

from __future__ import annotations

import argparse
import sys
import time

from higgsx.cli.common import add_json, print_json
from higgsx.cli.speaking import (
    add_engine,
    add_generation,
    generation_of,
    set_engine,
    since_start,
    speaker_of,
)
from higgsx.errors import UsageError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="text to continue; - reads standard input"
    )
    parser.add_argument("--audio", metavar="WAV", help="write down what is said in a wav file, of any length")
    parser.add_argument(
        "--language", metavar="CODE", help="with --audio: what is spoken (default: it listens)"
    )
    add_generation(parser)
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: each token's log-probability and N others"
    )
    add_engine(parser)
    add_json(parser)


def main(arguments: argparse.Namespace) -> None:
    if arguments.logprobs is not None and not arguments.json:
        raise UsageError("log-probabilities are only written as JSON", got="--logprobs", remedy="add --json")
    if arguments.audio is not None:
        _write_down(arguments)
        return
    if arguments.prompt is None:
        raise UsageError("nothing to work on", expected="a PROMPT, or --audio WAV")
    if arguments.language is not None:
        raise UsageError("a language is only for speech", got="--language", remedy="add --audio WAV")
    settings = generation_of(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    speaker = speaker_of(arguments)
    show = None if arguments.json else lambda text: print(text, end="", flush=True)
    if show is not None and speaker.continues:
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


def _write_down(arguments: argparse.Namespace) -> None:
    if arguments.prompt is not None:
        raise UsageError("a prompt and a sound", got=arguments.prompt, expected="one of them")
    import higgsx
    from higgsx.integrations.hf.listening import listener_of

    begin = time.perf_counter()
    set_engine(arguments)
    model, processor = higgsx.load(arguments.file, packed=arguments.packed)
    listener = listener_of(model, processor, arguments.language)
    samples = listener.read(arguments.audio)
    loaded, show = time.perf_counter() - begin, not arguments.json
    if arguments.verbose:
        print(f"engine: transformers ({model.hgs_state})", file=sys.stderr)
    pieces = []
    for piece in listener.pieces(samples):
        pieces.append(piece)
        if show:
            print(piece, end=" ", flush=True)
    total = time.perf_counter() - begin - loaded
    seconds = len(samples) / listener.rate
    if arguments.json:
        print_json(
            {
                "file": arguments.file,
                "audio": arguments.audio,
                "text": " ".join(pieces),
                "audio_s": seconds,
                "load_s": loaded,
                "total_s": total,
            }
        )
        return
    print()
    print(f"{seconds:.1f} s of sound in {total:.1f} s", file=sys.stderr)
