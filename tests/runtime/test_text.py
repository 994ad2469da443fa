"""Text as it comes: nothing is told that changes later, and stop texts are never told."""

from __future__ import annotations

import json
import random

import pytest

from higgsx.errors import FormatError, TextError
from higgsx.runtime import template
from higgsx.runtime.template import render
from higgsx.runtime.text import Stream, Tokenizer

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi ☀"}]


def utf8(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def told(text: str, stop: tuple[str, ...] = (), after: str = "") -> tuple[list[str], Stream]:
    stream = Stream(utf8, stop, list(after.encode()))
    pieces = []
    for byte in text.encode():
        pieces.append(stream.put(byte))
        if stream.stopped:
            break
    return [*pieces, stream.end()], stream


@pytest.mark.parametrize("text", ["plain", "ü☀𝄞 mixed ñ", "𝄞𝄞", ""])
def test_characters_come_whole(text: str) -> None:
    pieces, stream = told(text)
    assert "".join(pieces) == stream.text == text
    assert all("\ufffd" not in piece for piece in pieces)


def test_half_a_character_at_the_end() -> None:
    stream = Stream(utf8)
    assert [stream.put(byte) for byte in b"a\xe2\x98"] == ["a", "", ""]
    assert stream.end() == "\ufffd"


def test_a_prompt_that_ends_in_half_a_character() -> None:
    stream = Stream(utf8, (), list("☀".encode()[:2]))
    assert stream.put("☀".encode()[2]) in ("☀", "")


def test_stop_texts() -> None:
    pieces, stream = told("say END now", ("END",))
    assert stream.stopped
    assert "".join(pieces) == stream.text == "say "
    pieces, stream = told("ENENX ENDE", ("ENDED", "XX"))
    assert not stream.stopped
    assert "".join(pieces) == "ENENX ENDE"


def test_the_first_stop_text_counts() -> None:
    stream = Stream(lambda ids: "".join(["one STOP two HALT"][: len(ids)]), ("HALT", "STOP"))
    assert stream.put(0) == "one "
    assert stream.stopped


def test_what_may_become_a_stop_text_waits() -> None:
    pieces, _ = told("a\n\nb", ("\n\n\n",))
    assert pieces == ["a", "", "", "\n\nb", ""]


def test_streams_agree_with_the_whole() -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choice("ab☀ü") for _ in range(draw.randrange(12)))
        stop = tuple("".join(draw.choice("ab☀") for _ in range(draw.randrange(1, 4))) for _ in range(2))
        pieces, stream = told(text, stop)
        at = min([text.find(one) for one in stop if one in text], default=len(text))
        assert "".join(pieces) == stream.text == text[:at]


TOKENS = {
    "version": "1.0",
    "added_tokens": [
        {"id": 4, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
    ],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "?": 3}, "unk_token": "?"},
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": None,
}  # fmt: skip


def tokenizer(**assets: object) -> Tokenizer:
    files = {name.replace("__", "."): json.dumps(content).encode() for name, content in assets.items()}
    return Tokenizer({"tokenizer.json": json.dumps(TOKENS).encode(), **files})


def test_tokenizer() -> None:
    tools = tokenizer(tokenizer_config__json={"eos_token": {"content": "</s>"}, "bos_token": None})
    assert tools.encode("a b c x </s>") == [0, 1, 2, 3, 4]
    assert tools.decode([0, 2, 4]) == "a c"
    assert tools.word(4) == "</s>"
    assert tools.special == {"eos_token": "</s>"}
    assert len(tools) == 5
    with pytest.raises(TextError, match="no chat template"):
        tools.render(TALK)


def test_templates_are_found() -> None:
    plain = {"chat_template": "plain"}
    several = {"chat_template": [{"name": "tool", "template": "x"}, {"name": "default", "template": "named"}]}
    assert tokenizer(tokenizer_config__json=plain).template == "plain"
    assert tokenizer(tokenizer_config__json=several).template == "named"
    assert (
        tokenizer(tokenizer_config__json=plain, chat_template__json={"chat_template": "own"}).template
        == "own"
    )
    files = {"tokenizer.json": json.dumps(TOKENS).encode(), "chat_template.jinja": b"file"}
    assert Tokenizer({**files, "tokenizer_config.json": json.dumps(plain).encode()}).template == "file"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b"{"),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_broken_files(name: str, content: bytes) -> None:
    files = {"tokenizer.json": json.dumps(TOKENS).encode(), name: content}
    with pytest.raises((TextError, FormatError), match=name):
        Tokenizer(files).encode("a")  # tokenizer.json is read at the first use


def test_a_template_as_transformers_renders_it() -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    source = """{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}
    {%- if loop.last %}{{ '[' ~ loop.length ~ ']' }}{% endif %}
    {%- if message['content'] is not string %}{% continue %}{% endif %}
    {% generation %}{{ bos_token + message['role'] | upper + message.content | trim }}{% endgeneration %}
{{ message | tojson }}
{% endfor %}
{%- set ns = namespace(count=0) %}
{%- for key, value in messages[0].items() %}{% set ns.count = ns.count + 1 %}{% endfor %}
{%- for one in [3, 1, 2] | sort %}{{ one }}{{ loop.nextitem or '' }}{% endfor %}
{{- ns.count ~ strftime_now('%Y') ~ (tools is none) }}
{%- if add_generation_prompt %}{{ 'GO' }}{% endif %}"""
    wanted = _compile_jinja_template(source).render(
        messages=TALK, tools=None, documents=None, add_generation_prompt=True, **SPECIAL
    )
    assert render(source, TALK, SPECIAL) == wanted


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ ('x' * 4000000).replace('x', 'y' * 4000) }}",
        "{{ ('x' * 4000000) | replace('x', 'y' * 4000) }}",
        "{{ (['x' * 4000000] * 4000) | join }}",
        "{{ ('x' * 4000).join(['y'] * 4000) }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{{ lipsum(n=100000000) }}",
        "{% for x in",
        "{{ nothing.at.all }}",
    ],
)
def test_wild_templates_end(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "MAX_SECONDS", 0.3)
    with pytest.raises(TextError, match="chat template"):
        render(source, TALK, SPECIAL)
    with pytest.raises(TextError, match="too long"):
        render(" " * (1 << 21), TALK, SPECIAL)
