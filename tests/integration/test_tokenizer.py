"""Tokenizers from the assets of a file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from higgsx.errors import ModelError
from higgsx.integrations.hf.tokenizers import load_tokenizer


def assets() -> dict[str, bytes]:
    tokenizer = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "model_max_length": int(1e30),
    }
    return {
        "config.json": json.dumps({"model_type": "llama"}).encode(),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "LICENSE": b"free",
    }


def test_tokenizer_is_made_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tokenizer = load_tokenizer(assets())
    assert tokenizer("a b c", add_special_tokens=False)["input_ids"] == [1, 2, 0]
    assert tokenizer.model_max_length == int(1e30)
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in str(tokenizer.init_kwargs) and tokenizer.name_or_path == ""


def test_no_vocabulary_no_tokenizer() -> None:
    assert load_tokenizer({"config.json": b"{}", "tokenizer_config.json": b"{}"}) is None


def test_chat_template_comes_along() -> None:
    template = b"{% for message in messages %}<{{ message['content'] }}>{% endfor %}"
    tokenizer = load_tokenizer({**assets(), "chat_template.jinja": template})
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "<a>"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tokenizer_config.json",
            b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}',
            "asks for code",
        ),
        (
            "config.json",
            b'{"model_type": "llama", "auto_map": {"AutoConfig": "evil.Config"}}',
            "asks for code",
        ),
        ("tokenizer_config.json", b"[1]", "not a JSON object"),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("tokenizer.json", b'{"version": "1.0"}', "cannot be made from its files"),
    ],
)
def test_hostile_files_are_refused(name: str, content: bytes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_tokenizer({**assets(), name: content})


def test_names_outside_the_fixed_lists_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outside = tmp_path / "outside.py"
    load_tokenizer({**assets(), "../outside.py": b"x", "tokenization_evil.py": b"x"})
    assert not outside.exists()
