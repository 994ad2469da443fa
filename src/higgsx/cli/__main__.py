"""`higgsx VERB …`. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from higgsx import __version__
from higgsx.errors import HiggsxError, UsageError

VERBS = {
    "compress": "compress a model to one .hgs file within a budget",
    "plan": "show what compress would do; nothing is written but the plan",
    "inspect": "show what is in a file: tensors, codes, bytes, damage",
    "verify": "read every byte of a file and name what is damaged",
    "run": "continue a prompt with a compressed model",
    "chat": "talk with a compressed model, in its own chat template",
    "eval": "measure what a file lost against its original, on your own text",
    "unpack": "write an ordinary model folder back",
    "info": "show versions, this machine, and which kernels are used and why",
}


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line like every other error, and options have one spelling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"see `{self.prog} --help`")


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Only the verb among `words` is imported: torch takes seconds, and `--help` should not."""
    top = _Parser(
        prog="higgsx", description="One command turns a model into one small, honest file that runs."
    )
    top.add_argument("--version", action="version", version=f"higgsx {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    wanted = next((word for word in words if word in VERBS), None)
    for verb, help_text in VERBS.items():
        one = verbs.add_parser(verb, help=help_text)
        if verb == wanted:
            module = import_module(f"higgsx.cli.{verb}_")
            one.description = module.__doc__
            module.arguments(one)
            one.set_defaults(call=module.main)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    _print_anything()
    _end_like_an_interrupt()
    try:
        arguments = parser(words).parse_args(words)
        status = int(arguments.call(arguments) or 0)
        sys.stdout.flush()
        return status
    except HiggsxError as error:
        return _failed(error.code, str(error), as_json, error.exit_code)
    except KeyboardInterrupt:
        return _failed("INTERRUPTED", "interrupted; nothing was left behind", as_json, 130)
    except BrokenPipeError:
        # whoever read our output has closed it; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _failed("MEMORY", "out of memory", as_json, 1)
    except Exception as error:
        # a mistake of ours: the traceback is wanted, but a program still gets its object
        if as_json:
            _failed("INTERNAL", f"{type(error).__name__}: {error}", as_json, 1)
        raise


def _end_like_an_interrupt() -> None:
    """A request to end (SIGTERM, a closed terminal) cleans up as Ctrl-C does; exit code 128 + signal."""

    def end(number: int, unused: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), end)


def _print_anything() -> None:
    """A terminal or pipe that lacks a character shows its number instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _failed(code: str, message: str, as_json: bool, status: int) -> int:
    if as_json:
        print(json.dumps({"error": {"code": code, "message": message}}), flush=True)
    print(f"higgsx: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
