"""Lists that a user brings: pairs of texts, transcripts of clips. And how one list serves two parts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from higgsx.errors import TextError
from higgsx.fidelity.texts import LEARNED, read_text
from higgsx.jsontext import parse_json
from higgsx.tasks import Part

_HEADS = frozenset(
    {"source", "src", "input", "text", "word", "sentence", "question", "article", "document", "file", "path",
     "audio", "wav", "file_name"}
)  # fmt: skip
"""Where the first cell of a table is one of these words, its first line is a heading."""
_KEYS = (
    ("source", "target"),
    ("input", "output"),
    ("file", "text"),
    ("audio", "text"),
    ("file_name", "text"),
)

T = TypeVar("T")


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The first two columns of a tab-separated file, or two texts of each object of a `.jsonl` file (`source`
    and `target`, `input` and `output`, `file` and `text`).

    TextError with the line that does not fit: no second column, a cell that is empty, no JSON object.
    """
    text = read_text(path)
    as_json = Path(path).suffix.lower() in (".jsonl", ".json")
    found: list[tuple[str, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        cells = _object(line, where) if as_json else _cells(line, where)
        if not as_json and not found and cells[0].strip().lower() in _HEADS:
            continue
        if not all(cell.strip() for cell in cells):
            raise TextError("one side of the pair is empty", where=where, expected="two texts")
        found.append((cells[0], cells[1]))
    if not found:
        raise TextError("the file holds no pairs", where=path, expected="source, tab, target on each line")
    return found


def _cells(line: str, where: str) -> list[str]:
    cells = line.split("\t")
    if len(cells) < 2:
        raise TextError(
            "not a pair", where=where, got=repr(line[:60]), expected="source, tab, target",
            remedy="write one pair on each line, or a .jsonl file with source and target",
        )  # fmt: skip
    return cells


def _object(line: str, where: str) -> list[str]:
    data = parse_json(line, where=where, error=TextError)
    for keys in _KEYS:
        if isinstance(data, dict) and all(isinstance(data.get(key), str) for key in keys):
            return [data[key] for key in keys]
    raise TextError("not a pair", where=where, expected="an object with the texts source and target")


def share_of(items: Sequence[T], part: Part, shared: bool, where: object = None) -> list[T]:
    """The items that a part may use: all of them, or of material that serves both parts the first 80 % to
    learn from and the rest to measure on. TextError where nothing would be left."""
    if not shared:
        return list(items)
    learned = min(math.ceil(LEARNED * len(items)), len(items) - 1)
    found = items[:learned] if part == "calibration" else items[learned:]
    if not found:
        raise TextError(
            "too little to learn from and to measure on", where=where, got=f"{len(items)} items",
            expected="2 or more", remedy="give two files, or a longer one",
        )  # fmt: skip
    return list(found)
