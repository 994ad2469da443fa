"""How text is generated and what comes back: shared by the lean decoder and the way through transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from higgsx.errors import UsageError

OnText = Callable[[str], None]

MAX_LOGPROBS = 20


@dataclass(frozen=True)
class Settings:
    """max_tokens          to write at most
    temperature         0 always takes the likeliest token, whatever is set below
    top_k, top_p, min_p  keep: this many tokens (0: all); the likeliest up to this share; those with at least
                        this share of the likeliest one's probability
    repetition_penalty  divides the score of what has been said already (Keskar et al. 2019); 1: none
    stop                texts that end the answer; they are left out of it
    logprobs            report the log-probability of each token, and of so many likeliest ones; None: of none
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        _within("tokens", self.max_tokens, self.max_tokens >= 1, "1 or more")
        _within("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _within("top-p", self.top_p, 0 < self.top_p <= 1, "above 0, to 1")
        _within("top-k", self.top_k, self.top_k >= 0, "0 or more")
        _within("min-p", self.min_p, 0 <= self.min_p <= 1, "0 to 1")
        _within("repetition penalty", self.repetition_penalty, self.repetition_penalty > 0, "above 0")
        _within("seed", self.seed, 0 <= self.seed < 1 << 64, "0 to 2^64 - 1")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError("a stop text is empty", got=self.stop)
        shown = self.logprobs
        _within("logprobs", shown or 0, shown is None or 0 <= shown <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}")


def _within(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits or not math.isfinite(value):
        raise UsageError("generation setting out of range", where=name, got=value, expected=expected)


@dataclass(frozen=True)
class Token:
    """One token of an answer: its log-probability, and the likeliest tokens with theirs (nats, before
    temperature and everything that leaves tokens out)."""

    id: int
    text: str
    logprob: float
    likeliest: tuple[tuple[int, str, float], ...] = ()

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "text": self.text,
            "logprob": self.logprob,
            "likeliest": [{"id": i, "text": text, "logprob": value} for i, text, value in self.likeliest],
        }


@dataclass(frozen=True)
class Generated:
    """An answer.

    ids     the tokens, the one that ended it included
    first   seconds from the call to the first token
    rest    seconds from the first to the last
    ended   "end" (the model's own), "stop" (a stop text), "tokens" (as many as asked), "context" (full)
    reused  tokens of the prompt that were in the cache already
    """

    text: str
    prompt_tokens: int
    new_tokens: int
    first: float
    rest: float
    ids: tuple[int, ...] = ()
    ended: str = "tokens"
    reused: int = 0
    logprobs: tuple[Token, ...] = ()

    @property
    def prefill_rate(self) -> float:
        """Tokens of prompt computed per second, the first new token included."""
        return (self.prompt_tokens - self.reused) / self.first if self.first > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second after the first."""
        return (self.new_tokens - 1) / self.rest if self.rest > 0 and self.new_tokens > 1 else 0.0

    def to_json(self) -> dict[str, object]:
        found: dict[str, object] = {
            "text": self.text,
            "ended": self.ended,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "time_to_first_token_s": self.first,
            "reused_tokens": self.reused,
            "prefill_tokens_per_s": self.prefill_rate,
            "decode_tokens_per_s": self.decode_rate,
        }
        if self.logprobs:
            found["logprobs"] = [token.to_json() for token in self.logprobs]
        return found

    def summary(self) -> str:
        return (
            f"{self.new_tokens} tokens, {self.decode_rate:.1f} tokens/s, first after {self.first:.2f} s "
            f"({self.prompt_tokens} tokens of prompt)"
        )
