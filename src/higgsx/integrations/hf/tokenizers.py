"""Tokenizers and processors from files of anyone: ours only by name, and never with code of theirs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from higgsx.errors import ModelError
from higgsx.integrations.hf import classes
from higgsx.integrations.hf.quiet import quiet

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "bpe.model",
    "bpe.codes",
    "source.spm",
    "target.spm",
    "dict.txt",
    "encoder.json",
    "vocab.bpe",
    "tekken.json",
)
"""Each of these is a vocabulary: where none is there, there is no tokenizer."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_SETTINGS = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.json",
    "video_preprocessor_config.json",
    *PROCESSOR_FILES,
)
"""JSON objects; they are cleaned before transformers sees them."""
_OTHERS = ("merges.txt", "added_tokens.json", "chat_template.jinja", "normalizer.json")


def load_tokenizer(assets: Mapping[str, bytes]) -> Any:
    """The processor of a file that has one (speech, pictures), else its tokenizer, else None.

    assets  file name → content, from anyone; only names of fixed lists are used
    ModelError where a setting asks for foreign code, or where transformers can make nothing of the files.
    """
    if not any(name in assets for name in (*TOKENIZER_FILES, *PROCESSOR_FILES)):
        return None
    # readable for this user alone, and gone as soon as the tokenizer is in memory
    with tempfile.TemporaryDirectory(prefix="higgsx-") as place:
        folder = Path(place)
        for name in (*TOKENIZER_FILES, *_OTHERS):
            if name in assets:
                (folder / name).write_bytes(assets[name])
        for name in _SETTINGS:
            if name in assets:
                (folder / name).write_text(json.dumps(_cleaned(assets[name], name)), encoding="utf-8")
        found = processor_from(folder) if any(name in assets for name in PROCESSOR_FILES) else None
        found = tokenizer_from(folder) if found is None else found
        for part in (found, getattr(found, "tokenizer", None)):
            if hasattr(part, "init_kwargs"):
                _forget(part, place)
    return found


def _forget(tokenizer: Any, place: str) -> None:
    """Take the folder that is gone out of what the tokenizer remembers and would save."""
    tokenizer.name_or_path = ""
    for key, value in list(tokenizer.init_kwargs.items()):
        if isinstance(value, str) and place in value:
            del tokenizer.init_kwargs[key]


def _cleaned(content: bytes, name: str) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ModelError("not JSON", where=name, got=classes.first_line(error)) from error
    if not isinstance(data, dict):
        raise ModelError("not a JSON object", where=name, got=type(data).__name__)
    return classes.safe_config(data, name)


def tokenizer_from(folder: Path) -> Any:
    """The tokenizer of a folder, None if there is none."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return _made(AutoTokenizer, folder, "tokenizer")


def processor_from(folder: Path) -> Any:
    """The processor of a folder, None if there is none or if what it needs is not installed."""
    from transformers import AutoProcessor

    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        return None
    try:
        return _made(AutoProcessor, folder, "processor")
    except ModelError as error:
        if isinstance(error.__cause__, ImportError):
            return None
        raise


def _made(kind: Any, folder: Path, what: str) -> Any:
    try:
        with quiet():
            return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # parsers of many formats, each with its own exceptions
        raise ModelError(
            f"the {what} cannot be made from its files", where=what, got=classes.first_line(error)
        ) from error
