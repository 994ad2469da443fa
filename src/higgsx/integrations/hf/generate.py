"""Text from a transformers model, streamed, with the times that a person feels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from higgsx.errors import TextError, UsageError

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """max_tokens to write at most; temperature 0 always takes the likeliest token, whatever else is set."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UsageError(
                "generation settings out of range",
                got=f"{self.max_tokens} tokens, t {self.temperature}, p {self.top_p}, k {self.top_k}",
                expected="tokens from 1, temperature from 0, top-p above 0 to 1, top-k from 0",
            )

    def sampling(self) -> dict[str, Any]:
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {
            "do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k
        }  # fmt: skip


@dataclass(frozen=True)
class Generated:
    """Seconds: from the call to the first token, and from the first to the last."""

    text: str
    prompt_tokens: int
    new_tokens: int
    first: float
    rest: float

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second, the first new token included."""
        return self.prompt_tokens / self.first if self.first > 0 else 0.0

    @property
    def decode_rate(self) -> float:
        """New tokens per second after the first."""
        return (self.new_tokens - 1) / self.rest if self.rest > 0 and self.new_tokens > 1 else 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "text": self.text,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "time_to_first_token_s": self.first,
            "prefill_tokens_per_s": self.prefill_rate,
            "decode_tokens_per_s": self.decode_rate,
        }

    def summary(self) -> str:
        return (
            f"{self.new_tokens} tokens, {self.decode_rate:.1f} tokens/s, first after {self.first:.2f} s "
            f"({self.prompt_tokens} tokens of prompt)"
        )


@dataclass
class _Stream(BaseStreamer):
    """Turns tokens into text as they come; keeps back what may still change, such as half a character."""

    tokenizer: Any
    on_text: OnText | None
    begin: float = field(default_factory=time.perf_counter)
    first: float = 0.0
    last: float = 0.0
    tokens: list[int] = field(default_factory=list)
    _prompt_seen: bool = False
    _told: int = 0

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self.last = time.perf_counter() - self.begin
        self.first = self.first or self.last
        self.tokens += value.flatten().tolist()
        self._tell(final=False)

    def end(self) -> None:
        self._tell(final=True)

    @property
    def text(self) -> str:
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def _tell(self, final: bool) -> None:
        if self.on_text is None:
            return
        text = self.text
        if not final and text.endswith("\ufffd"):
            return
        if len(text) > self._told:
            self.on_text(text[self._told :])
            self._told = len(text)


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    settings: Settings | None = None,
    on_text: OnText | None = None,
) -> Generated:
    """Continue a prompt. TextError without a tokenizer."""
    if tokenizer is None:
        raise TextError("the file has no tokenizer", remedy="compress a folder that holds one")
    return _run(model, tokenizer, tokenizer(prompt, return_tensors="pt")["input_ids"], settings, on_text)


def _run(
    model: Any, tokenizer: Any, ids: torch.Tensor, settings: Settings | None, on_text: OnText | None
) -> Generated:
    settings = settings or Settings()
    if ids.shape[1] == 0:
        raise TextError("the prompt has no tokens", remedy="write something")
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(ids.max()) >= vocabulary:
        raise TextError(
            "token is not in the model's vocabulary", got=int(ids.max()), expected=f"below {vocabulary}"
        )
    torch.manual_seed(settings.seed)
    stream = _Stream(tokenizer, on_text)
    pad = model.generation_config.pad_token_id
    if pad is None:
        end = model.generation_config.eos_token_id
        pad = end[0] if isinstance(end, list) else end
    ids = ids.to(model.device)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=settings.max_tokens,
            streamer=stream,
            pad_token_id=pad,
            repetition_penalty=1.0,
            **settings.sampling(),
        )
    return Generated(stream.text, ids.shape[1], len(stream.tokens), stream.first, stream.last - stream.first)


class Chat:
    """A conversation in the model's own template; it remembers what was said."""

    def __init__(self, model: Any, tokenizer: Any, system: str | None = None) -> None:
        if tokenizer is None or not getattr(tokenizer, "chat_template", None):
            raise TextError(
                "the model has no chat template", remedy="use `higgsx run` to continue a text instead"
            )
        self._model, self._tokenizer = model, tokenizer
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def say(
        self, message: str, *, settings: Settings | None = None, on_text: OnText | None = None
    ) -> Generated:
        """One answer."""
        messages = [*self._messages, {"role": "user", "content": message}]
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        done = _run(self._model, self._tokenizer, encoded["input_ids"], settings, on_text)
        self._messages = [*messages, {"role": "assistant", "content": done.text}]
        return done
