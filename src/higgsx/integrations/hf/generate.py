"""Text from a transformers model, streamed, with the times that a person feels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from higgsx.errors import TextError
from higgsx.runtime.settings import Generated, OnText, Settings, Token
from higgsx.runtime.text import Stream

__all__ = ["Chat", "Generated", "Settings", "generate"]


def _sampling(settings: Settings) -> dict[str, Any]:
    shared = {"repetition_penalty": settings.repetition_penalty}
    if settings.temperature == 0:
        return {**shared, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        **shared,
        "do_sample": True,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "min_p": settings.min_p or None,
    }


class _Stop(StoppingCriteria):
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __call__(self, input_ids: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stream.stopped, device=input_ids.device)


class _Scores(LogitsProcessor):
    """Remembers the logits of the next token and changes nothing."""

    last: torch.Tensor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.last = scores[0].float()
        return scores


class _Watch(BaseStreamer):
    """Sees the tokens as they come: text for whoever reads along, log-probabilities for those who ask."""

    def __init__(
        self,
        tokenizer: Any,
        settings: Settings,
        on_text: OnText | None,
        prompt: Sequence[int],
        continues: bool,
        ends: frozenset[int],
    ) -> None:
        self.begin = time.perf_counter()
        self.first = self.last = 0.0
        self.tokens: list[int] = []
        self.told: list[Token] = []
        self._tokenizer, self._settings, self._on_text = tokenizer, settings, on_text
        self._ends, self._prompt_seen = ends, False
        self.stream = Stream(self._decode, settings.stop, prompt if continues else ())
        self.scores = _Scores()

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        if self.stream.stopped:
            return  # transformers may look for the end one token late
        self.last = time.perf_counter() - self.begin
        self.first = self.first or self.last
        for token in value.flatten().tolist():
            self.tokens.append(token)
            if self._settings.logprobs is not None:
                self.told.append(self._report(token))
            if token not in self._ends:
                self._tell(self.stream.put(token))

    def end(self) -> None:
        self._tell(self.stream.end())

    def _tell(self, piece: str) -> None:
        if piece and self._on_text is not None:
            self._on_text(piece)

    def _report(self, token: int) -> Token:
        values = torch.log_softmax(self.scores.last, dim=-1)
        top = torch.topk(values, self._settings.logprobs or 0)
        likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return Token(
            token,
            self._word(token),
            float(values[token]),
            tuple((i, self._word(i), value) for i, value in likeliest),
        )

    def _word(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))

    @property
    def ended(self) -> str:
        if self.stream.stopped:
            return "stop"
        return "end" if self.tokens and self.tokens[-1] in self._ends else "tokens"


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    settings: Settings | None = None,
    on_text: OnText | None = None,
) -> Generated:
    """Continue a prompt; with an encoder and a decoder, turn it into another text. TextError without a
    tokenizer."""
    if tokenizer is None:
        raise TextError("the file has no tokenizer", remedy="compress a folder that holds one")
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    two = bool(getattr(model.config, "is_encoder_decoder", False))
    return _run(model, tokenizer, ids, settings, on_text, continues=not two)


def _run(
    model: Any,
    tokenizer: Any,
    ids: torch.Tensor,
    settings: Settings | None,
    on_text: OnText | None,
    continues: bool = False,
) -> Generated:
    """continues: the answer goes on with the prompt's text."""
    settings = settings or Settings()
    if ids.shape[1] == 0:
        raise TextError("the prompt has no tokens", remedy="write something")
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(ids.max()) >= vocabulary:
        raise TextError(
            "token is not in the model's vocabulary", got=int(ids.max()), expected=f"below {vocabulary}"
        )
    torch.manual_seed(settings.seed)
    end = model.generation_config.eos_token_id
    ends = frozenset(end if isinstance(end, list) else [] if end is None else [end])
    pad = model.generation_config.pad_token_id
    pad = min(ends, default=None) if pad is None else pad
    watch = _Watch(tokenizer, settings, on_text, ids[0].tolist(), continues, ends)
    ids = ids.to(model.device)
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=settings.max_tokens,
            streamer=watch,
            stopping_criteria=StoppingCriteriaList([_Stop(watch.stream)] if settings.stop else []),
            logits_processor=LogitsProcessorList([watch.scores] if settings.logprobs is not None else []),
            pad_token_id=pad,
            **_sampling(settings),
        )
    return Generated(
        watch.stream.text,
        ids.shape[1],
        len(watch.tokens),
        watch.first,
        watch.last - watch.first,
        tuple(watch.tokens),
        watch.ended,
        0,
        tuple(watch.told),
    )


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
