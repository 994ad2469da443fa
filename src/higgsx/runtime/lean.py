"""A file opened in the lean decoder: continue a text, stream it, talk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from higgsx.archive import Archive
from higgsx.errors import FormatError, ModelError, TextError
from higgsx.jsontext import parse_json
from higgsx.kernels import native
from higgsx.runtime.engine import Engine
from higgsx.runtime.prefetch import Prefetch
from higgsx.runtime.sampling import Sampler, log_probabilities
from higgsx.runtime.settings import Generated, OnText, Settings, Token
from higgsx.runtime.text import Stream, Tokenizer

TEXT_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
OTHER_KINDS = (
    "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "sentencepiece.model", "spm.model", "bpe.model", "bpe.codes", "source.spm", "encoder.json", "vocab.bpe",
    "tekken.json", "processor_config.json",
)  # fmt: skip
"""Vocabularies that only transformers reads."""


def open_lean(path: str | Path, **options: Any) -> Lean:
    """See `Engine` for the options. ModelError (code FAMILY) says why the lean decoder cannot take the file:
    no native kernels, a model that it does not know, or no `tokenizer.json`."""
    return lean_of(Archive.open(path), **options)


def lean_of(archive: Archive, **options: Any) -> Lean:
    """The same for an opened file, which belongs to the engine from then on."""
    try:
        why = native.available()
        if why is not None:
            raise ModelError("no native kernels", got=why, code="FAMILY")
        return Lean(archive, **options)
    except BaseException:
        archive.close()
        raise


class Lean(Engine):
    """An engine that reads and writes text. `tokenizer` is None where the file has none."""

    def __init__(self, archive: Archive, **options: Any) -> None:
        self._archive, self._ahead = archive, Prefetch(archive)
        # the disk works while the program is made
        self._ahead.start()
        try:
            super().__init__(archive, **options)
            self.ends = _ends(archive)
            self.tokenizer = _tokenizer(archive)
        except BaseException:
            self._ahead.stop()
            raise

    def close(self) -> None:
        """What is mapped stays until nobody holds the engine any more."""
        self._ahead.stop()
        self._archive.close()

    def __enter__(self) -> Lean:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def generate(
        self,
        prompt: str | Sequence[int],
        settings: Settings | None = None,
        *,
        on_text: OnText | None = None,
        **changes: Any,
    ) -> Generated:
        """Continue a text or tokens. `changes` are fields of `Settings`. What an earlier call left in the
        cache and the prompt begins with is not computed again."""
        run = _Run(self, self._ids(prompt), _settings(settings, changes), continues=True)
        for piece in run.pieces():
            if on_text is not None and piece:
                on_text(piece)
        return run.result()

    def stream(
        self, prompt: str | Sequence[int], settings: Settings | None = None, **changes: Any
    ) -> Iterator[str]:
        """Pieces of the text as they come."""
        run = _Run(self, self._ids(prompt), _settings(settings, changes), continues=True)
        yield from filter(None, run.pieces())

    def generate_all(
        self, prompts: Sequence[str | Sequence[int]], settings: Settings | None = None, **changes: Any
    ) -> list[Generated]:
        """Several texts at once, as many as the engine has sequences: each weight is read once for all."""
        if len(prompts) > self.sequences:
            raise TextError("too many texts at once", got=len(prompts), expected=f"at most {self.sequences}")
        chosen = _settings(settings, changes)
        runs = [
            _Run(self, self._ids(prompt), chosen, continues=True, sequence=index)
            for index, prompt in enumerate(prompts)
        ]
        going = [run for run in runs if run.begin() is not None and not run.ended]
        while going:
            rows = self.step([run.last for run in going], [run.sequence for run in going])
            for run, logits in zip(going, rows, strict=True):
                run.take(logits)
            going = [run for run in going if not run.ended]
        return [run.result() for run in runs]

    def chat(self, system: str | None = None) -> Chat:
        return Chat(self, system)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            return [int(token) for token in prompt]
        return self.text_tools().encode(prompt)

    def text_tools(self) -> Tokenizer:
        """The tokenizer; TextError without one."""
        if self.tokenizer is None:
            raise TextError("the file has no tokenizer", remedy="compress a folder that holds one")
        return self.tokenizer


class Chat:
    """A conversation in the model's own template; it remembers what was said."""

    def __init__(self, lean: Lean, system: str | None = None) -> None:
        if lean.tokenizer is None or not lean.tokenizer.template:
            raise TextError(
                "the model has no chat template", remedy="use `higgsx run` to continue a text instead"
            )
        self._lean = lean
        self._messages = [] if system is None else [{"role": "system", "content": system}]

    def say(
        self, message: str, *, settings: Settings | None = None, on_text: OnText | None = None
    ) -> Generated:
        """One answer. Only what is new is computed: the rest is in the cache."""
        lean = self._lean
        messages = [*self._messages, {"role": "user", "content": message}]
        tools = lean.text_tools()
        run = _Run(lean, tools.encode(tools.render(messages), special=False), settings or Settings())
        for piece in run.pieces():
            if on_text is not None and piece:
                on_text(piece)
        done = run.result()
        self._messages = [*messages, {"role": "assistant", "content": done.text}]
        return done


class _Run:
    """One answer on its way."""

    def __init__(
        self, lean: Lean, prompt: list[int], settings: Settings, *, continues: bool = False, sequence: int = 0
    ) -> None:
        """continues: the answer goes on with the prompt's text."""
        self._begin = time.perf_counter()
        self._lean, self._prompt, self._settings, self.sequence = lean, prompt, settings, sequence
        tools = lean.tokenizer
        decode = tools.decode if tools is not None else lambda ids: ""
        self._stream = Stream(decode, settings.stop, prompt if continues else ())
        self._sampler = Sampler(settings, prompt)
        self._ids: list[int] = []
        self._told: list[Token] = []
        self._first = self._last = 0.0
        self._reused = 0
        self.ended = ""

    @property
    def last(self) -> int:
        return self._ids[-1]

    def begin(self) -> str:
        """Read the prompt and take the first token."""
        lean = self._lean
        self._reused = lean.keep(self.sequence, self._prompt) if self._prompt else 0
        piece = self.take(lean.extend(self.sequence, self._prompt[self._reused :]))
        self._first = self._last
        return piece

    def pieces(self) -> Iterator[str]:
        yield self.begin()
        while not self.ended:
            yield self.take(self._lean.step([self.last], [self.sequence])[0])

    def take(self, logits: np.ndarray) -> str:
        """The next token from its logits; the text that it made certain."""
        token = self._sampler.pick(logits)
        self._last = time.perf_counter() - self._begin
        self._ids.append(token)
        if self._settings.logprobs is not None:
            self._told.append(self._report(logits, token))
        if token in self._lean.ends:
            self.ended = "end"
            return self._stream.end()
        piece = self._stream.put(token)
        if self._stream.stopped:
            self.ended = "stop"
        elif len(self._ids) >= self._settings.max_tokens:
            self.ended = "tokens"
        elif len(self._lean.tokens[self.sequence]) >= self._lean.context:
            self.ended = "context"
        return piece + self._stream.end() if self.ended else piece

    def _report(self, logits: np.ndarray, token: int) -> Token:
        tools = self._lean.tokenizer
        word = tools.word if tools is not None else lambda _: ""
        own, likeliest = log_probabilities(logits, token, self._settings.logprobs or 0)
        return Token(token, word(token), own, tuple((i, word(i), value) for i, value in likeliest))

    def result(self) -> Generated:
        return Generated(
            self._stream.text, len(self._prompt), len(self._ids), self._first, self._last - self._first,
            tuple(self._ids), self.ended, self._reused, tuple(self._told),
        )  # fmt: skip


def _settings(settings: Settings | None, changes: Mapping[str, Any]) -> Settings:
    import dataclasses

    changes = dict(changes)
    if isinstance(changes.get("stop"), str):
        changes["stop"] = (changes["stop"],)
    elif "stop" in changes:
        changes["stop"] = tuple(changes["stop"])
    return dataclasses.replace(settings or Settings(), **changes)


def _ends(archive: Archive) -> frozenset[int]:
    """Tokens that end an answer: of the generation settings, else of the configuration."""
    name = "generation_config.json"
    found = archive.config.get("eos_token_id")
    if name in archive.file.assets:
        try:
            settings = parse_json(archive.file.asset(name).decode(), where=name, error=FormatError)
        except UnicodeDecodeError:
            raise FormatError("is no UTF-8 text", where=name, code="UTF8") from None
        if not isinstance(settings, dict):
            raise FormatError("not a JSON object", where=name, code="ASSET")
        found = settings.get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return frozenset(token for token in ids if type(token) is int)


def _tokenizer(archive: Archive) -> Tokenizer | None:
    assets = {name: archive.file.asset(name) for name in TEXT_FILES if name in archive.file.assets}
    if "tokenizer.json" in assets:
        return Tokenizer(assets)
    others = [name for name in archive.file.assets if name in OTHER_KINDS]
    if others:
        raise ModelError("there is no tokenizer.json", where=archive.file.path, got=others, code="FAMILY")
    return None
