"""Text and tokens: the `tokenizers` library on the file's `tokenizer.json`, text as it comes, stop texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from higgsx.errors import FormatError, TextError

MAX_TOKENIZER = 256 << 20
_HALF = "\ufffd"
"""What stands for bytes that are no character yet."""
_CONTEXT = 4
"""Tokens before an answer that are decoded with its first one."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """The tokenizer of a file.

    special    words such as `bos_token`, as templates know them
    template   the chat template's source, None without
    """

    def __init__(self, assets: Mapping[str, bytes]) -> None:
        """assets: contents by file name, from anyone. TextError where `tokenizer.json` is missing. It is read
        at its first use, which takes longer than loading the model; TextError then where it is none."""
        if "tokenizer.json" not in assets:
            raise TextError("the file has no tokenizer.json", code="TOKENIZER")
        self._data = assets["tokenizer.json"]
        if len(self._data) > MAX_TOKENIZER:
            got, most = len(self._data), f"at most {MAX_TOKENIZER}"
            raise TextError("tokenizer.json is too long", got=got, expected=most)
        settings = _object(assets, "tokenizer_config.json")
        self.special = _special(_object(assets, "special_tokens_map.json"), settings)
        self.template = _template(assets, settings)

    @cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        try:
            made = tokenizers.Tokenizer.from_buffer(self._data)
        except Exception as error:  # the library raises plain exceptions
            raise TextError("is no tokenizer", where="tokenizer.json", got=str(error)[:200]) from None
        self._data = b""
        made.no_padding()
        made.no_truncation()
        return made

    def encode(self, text: str, special: bool = True) -> list[int]:
        """special: with the tokens that the model's own rules add, such as the one that begins a text."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def __call__(self, text: str) -> list[int]:
        return self.encode(text)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def word(self, token: int) -> str:
        """One token by itself, special ones too."""
        return self.decode([token], skip_special=False)

    def render(self, messages: Sequence[Mapping[str, object]]) -> str:
        """A conversation in the model's own template, ready for its answer. TextError without a template."""
        from higgsx.runtime.template import render

        if self.template is None:
            raise TextError(
                "the model has no chat template", remedy="use `higgsx run` to continue a text instead"
            )
        return render(self.template, messages, self.special)


def _object(assets: Mapping[str, bytes], name: str) -> Mapping[str, Any]:
    if name not in assets:
        return {}
    try:
        # tokenizers' settings hold numbers that strict JSON refuses, such as a length of 10^30
        found = json.loads(assets[name])
    except (ValueError, RecursionError):
        raise FormatError("is no JSON", where=name, code="JSON") from None
    if not isinstance(found, dict):
        raise FormatError("not a JSON object", where=name, code="ASSET")
    return found


def _special(*sources: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sources:
        for name in _SPECIAL:
            value = source.get(name)
            value = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(value, str):
                found[name] = value
    return found


def _template(assets: Mapping[str, bytes], settings: Mapping[str, Any]) -> str | None:
    """A file of its own goes before what stands in the settings."""
    if "chat_template.jinja" in assets:
        try:
            return assets["chat_template.jinja"].decode()
        except UnicodeDecodeError:
            raise FormatError("is no UTF-8 text", where="chat_template.jinja", code="UTF8") from None
    for source in (_object(assets, "chat_template.json"), settings):
        found = source.get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, Mapping)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


class Stream:
    """Tokens → pieces of text that never change again: half a character waits for its other half, and what
    may become a stop text waits until it cannot."""

    def __init__(self, decode: Any, stop: Sequence[str] = (), after: Sequence[int] = ()) -> None:
        """decode: list of ids → text. after: tokens before the first: some tokens begin with a space only
        where they continue a text."""
        self._decode, self._stop = decode, tuple(stop)
        self._longest = max((len(text) for text in self._stop), default=0)
        self._ids = list(after[-_CONTEXT:])
        # what is decoded again with each token: from `_from`, of which `_known` is told already
        self._from, self._known = 0, len(self._ids)
        self._pending = ""
        self.text = ""
        self.stopped = False

    def put(self, token: int) -> str:
        """The text that this token made certain."""
        self._ids.append(token)
        return self._take(self._news(final=False), final=False)

    def end(self) -> str:
        """What was still held back."""
        return "" if self.stopped else self._take(self._news(final=True), final=True)

    def _news(self, final: bool) -> str:
        before = self._decode(self._ids[self._from : self._known])
        now = self._decode(self._ids[self._from :])
        if not final and now.endswith(_HALF) or len(now) <= len(before):
            return ""
        self._from, self._known = self._known, len(self._ids)
        return now[len(before) :]

    def _take(self, news: str, final: bool) -> str:
        self._pending += news
        for begin in self._ends():
            told, self._pending, self.stopped = self._pending[:begin], "", True
            self.text += told
            return told
        held = 0 if final else self._may_begin()
        told = self._pending[: len(self._pending) - held]
        self._pending = self._pending[len(told) :]
        self.text += told
        return told

    def _ends(self) -> Iterator[int]:
        """Where the first stop text begins, if there is one."""
        found = [at for at in map(self._pending.find, self._stop) if at >= 0]
        yield from sorted(found)[:1]

    def _may_begin(self) -> int:
        """Length of the longest end of what is pending that a stop text begins with."""
        for length in range(min(self._longest - 1, len(self._pending)), 0, -1):
            end = self._pending[-length:]
            if any(text.startswith(end) for text in self._stop):
                return length
        return 0
