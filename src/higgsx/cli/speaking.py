"""What `run` and `chat` share: options, and the choice between the lean decoder and transformers."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from higgsx import io
from higgsx.cli.common import amount, count
from higgsx.errors import ModelError, UsageError

if TYPE_CHECKING:
    from higgsx.runtime.settings import Generated, Settings

_LEAN_ONLY = ("context", "cache")
_WRITES = ("language", "pairs", "outputs")
"""Kinds of tasks whose model writes text from a prompt; of the last nobody knows, it may."""
_SETTINGS = (
    "max_tokens", "temperature", "top_p", "top_k", "seed", "min_p", "repetition_penalty", "stop", "logprobs"
)  # fmt: skip


def add_generation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--max-tokens", type=count, default=256, help="tokens to write at most (default 256)")
    add("--temperature", type=amount, default=0.0, help="0: always the likeliest token (default)")
    add("--top-p", type=amount, default=1.0, help="keep the likeliest tokens up to this share")
    add("--top-k", type=int, default=0, help="keep this many likeliest tokens, 0: all")
    add("--min-p", type=amount, default=0.0, help="keep tokens with this share of the likeliest one's chance")
    add("--repetition-penalty", type=amount, default=1.0, help="above 1: what was said becomes less likely")
    add("--seed", type=int, default=0, help="of the drawing (default 0)")
    add("--stop", action="append", default=[], metavar="TEXT", help="end where this text would come")


def add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--transformers", action="store_true", help="run through transformers, not in the lean decoder")
    add("--context", type=count, help="tokens of a text at most (default: the model's, at most 4096)")
    add("--cache", choices=("f16", "bf16", "f32"), help="numbers that keys and values are kept in")
    add("--precision", choices=("int8", "fast", "float"), help="of activations (default int8)")
    add("--threads", type=count, help="default: the cores of this machine")
    add(
        "--packed",
        action=argparse.BooleanOptionalAction,
        help="through transformers: keep weights compressed (default where native kernels run), or decode "
        "them once: more memory",
    )
    add("-v", "--verbose", action="store_true", help="say on standard error what runs, and why")


def generation_of(arguments: argparse.Namespace) -> Settings:
    from higgsx.runtime.settings import Settings

    values: dict[str, Any] = {name: getattr(arguments, name, None) for name in _SETTINGS}
    return Settings(**{**values, "stop": tuple(arguments.stop)})


@dataclass(frozen=True)
class Speaker:
    """engine   "lean" or "transformers"
    why      that one
    facts    of the engine: memory, tier, threads
    seconds  that loading took
    continues  whether an answer goes on with the prompt, or is another text
    """

    engine: str
    why: str
    facts: dict[str, Any]
    seconds: float
    generate: Callable[..., Generated]
    chat: Callable[[str | None], Any]
    continues: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"engine": self.engine, "why": self.why, "load_s": self.seconds, **self.facts}

    def lines(self) -> list[str]:
        facts = "; ".join(f"{name} {value}" for name, value in self.facts.items())
        return [f"engine: {self.engine} ({self.why})", f"loaded in {self.seconds:.2f} s; {facts}"]


def speaker_of(arguments: argparse.Namespace) -> Speaker:
    """The file, opened in the lean decoder where that knows its model, else through transformers."""
    begin = time.perf_counter()
    why = _excluded(arguments)
    if why is None:
        try:
            found = _lean(arguments, begin)
        except ModelError as error:
            if error.code != "FAMILY":
                raise
            why = str(error)
    if why is not None:
        found = _through_transformers(arguments, begin, why)
    if arguments.verbose:
        print("\n".join(found.lines()), file=sys.stderr)
    return found


def _excluded(arguments: argparse.Namespace) -> str | None:
    """Why the lean decoder is not even tried."""
    chosen = "--transformers" if arguments.transformers else None
    if arguments.packed is False:
        chosen = chosen or "--no-packed"
    given = [f"--{name}" for name in _LEAN_ONLY if getattr(arguments, name) is not None]
    if chosen and given:
        raise UsageError("only the lean decoder takes this", got=given[0], remedy=f"leave out {chosen}")
    return f"{chosen} was given" if chosen else None


def _lean(arguments: argparse.Namespace, begin: float) -> Speaker:
    from higgsx.runtime.lean import open_lean

    lean = open_lean(
        arguments.file,
        context=arguments.context,
        precision=arguments.precision,
        cache=arguments.cache or "f16",
        threads=arguments.threads,
    )
    facts = {
        "family": lean.design.family,
        "context": lean.context,
        "precision": lean.precision,
        "tier": lean.tier,
        "threads": lean.threads,
        "memory": str(lean.memory),
    }
    why = f"family {lean.design.family}"
    return Speaker("lean", why, facts, time.perf_counter() - begin, lean.generate, lean.chat)


def _through_transformers(arguments: argparse.Namespace, begin: float, why: str) -> Speaker:
    import torch

    import higgsx
    from higgsx.integrations.hf.generate import Chat, generate
    from higgsx.integrations.hf.tasks import task_of

    set_engine(arguments)
    model, tokenizer = higgsx.load(arguments.file, packed=arguments.packed)
    kind = task_of(type(model), model.config, None).kind
    if kind not in _WRITES:
        remedy = (
            "give it a sound: --audio WAV" if kind == "speech" else "load it in Python: higgsx.load(FILE)"
        )
        raise UsageError(
            "this model does not work on a prompt",
            where=arguments.file,
            got=type(model).__name__,
            remedy=remedy,
        )
    return Speaker(
        "transformers",
        why,
        {"state": model.hgs_state, "threads": torch.get_num_threads()},
        time.perf_counter() - begin,
        lambda *args, **kwargs: generate(model, tokenizer, *args, **kwargs),
        lambda system: Chat(model, tokenizer, system),
        kind != "pairs",
    )


def set_engine(arguments: argparse.Namespace) -> None:
    """Threads and precision of what runs through transformers."""
    import torch

    from higgsx.kernels import precision

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.precision is not None:
        os.environ[precision.VARIABLE] = arguments.precision


def since_start() -> float | None:
    """Seconds since this process was started, to a hundredth; None where the system does not tell."""
    try:
        fields = io.system_text("/proc/self/stat").rpartition(")")[2].split()
        up = float(io.system_text("/proc/uptime").split()[0])
        return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
