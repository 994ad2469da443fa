"""Text to measure on: a file of the user's cut into windows of token ids."""

from __future__ import annotations

import codecs
import os

import torch
from torch import Tensor

from higgsx import io
from higgsx.errors import TextError
from higgsx.tasks import Encoder, Part

MOST_BYTES = 64 * 2**20
"""A longer text is read up to here."""
_MOST_BYTES_PER_TOKEN = 64


def read_text(path: str | os.PathLike[str], most_bytes: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file, at most its first `most_bytes` bytes; a byte order mark is dropped.

    TextError: empty, or not UTF-8 (with the place). StorageError: absent, no ordinary file, unreadable.
    """
    fd = io.open_for_reading(path)
    try:
        size = io.file_size(fd)
        raw = io.read_at(fd, 0, min(size, most_bytes), where=path)
    finally:
        os.close(fd)
    try:
        # Where the text was cut, a character may be cut too: it is left out.
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, final=size <= most_bytes)
    except UnicodeDecodeError as error:
        raise TextError(
            f"not UTF-8 text at byte {error.start}",
            where=path,
            got=f"byte 0x{raw[error.start]:02x}",
            expected="a UTF-8 text file",
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise TextError("the text is empty", where=path, expected="text to measure on")
    return text


def encode(text: str, encoder: Encoder, where: object = None) -> list[int]:
    """Token ids without special tokens; TextError where one is no output of the model."""
    ids = list(encoder.encode(text))
    outside = next((token for token in ids if not 0 <= token < encoder.vocabulary), None)
    if outside is not None:
        raise TextError(
            "the tokenizer gives a token id that the model does not have",
            where=where,
            got=outside,
            expected=f"0 to {encoder.vocabulary - 1}",
            remedy="use the tokenizer that belongs to the model",
        )
    return ids


def cut(
    ids: list[int], encoder: Encoder, length: int, limit: int | None = None, where: object = None
) -> list[Tensor]:
    """Windows [1, length], one after the other, at most `limit` of them; what is left over is not used.

    Every window begins with the beginning-of-text token if there is one, which counts in `length`.
    TextError: too few tokens for one window, with the number that is missing.
    """
    front = [] if encoder.first is None else [encoder.first]
    step = length - len(front)
    if step < 1 or length < 2:
        raise TextError("the window is too short", where=where, got=length, expected="2 tokens or more")
    if len(ids) < step:
        raise TextError(
            "the text is too short",
            where=where,
            got=f"{len(ids)} tokens",
            expected=f"{step} or more ({step - len(ids)} are missing)",
            remedy="give a longer text or a shorter window",
        )
    starts = range(0, len(ids) - step + 1, step)[:limit]
    return [torch.tensor([front + ids[start : start + step]]) for start in starts]


LEARNED = 0.8
"""Where one text serves both parts, this much of its front is learned from, the rest is measured on."""


def part_of(text: str, part: Part, where: object = None) -> str:
    """The characters of a text that a part of the work may see; the two never overlap. The cut is at the
    first white space after `LEARNED` of the text. TextError where a part would be empty."""
    begin = int(LEARNED * len(text))
    cut_at = next((place for place in range(begin, len(text)) if text[place].isspace()), len(text))
    found = text[:cut_at] if part == "calibration" else text[cut_at:]
    if not found.strip():
        raise TextError(
            "the text is too short to learn from and to measure on",
            where=where,
            got=f"nothing is left for the {part}",
            remedy="give two texts, or a longer one",
        )
    return found


def text_windows(
    path: str | os.PathLike[str],
    encoder: Encoder,
    length: int,
    limit: int | None = None,
    part: Part | None = None,
    spread: bool = False,
) -> list[Tensor]:
    """Windows of a text file, at most `limit`; only as much of the file is encoded as they can need.

    part    None: of the whole text; else of the share that this part may see (`part_of`)
    spread  evenly over the text instead of from its beginning, which may be a title page or one of many kinds
    """
    need = length * _MOST_BYTES_PER_TOKEN
    most = MOST_BYTES if limit is None or spread else min(MOST_BYTES, limit * need)
    text = read_text(path, most) if part is None else part_of(read_text(path), part, path)[:most]
    if limit is None or not spread:
        return cut(encode(text, encoder, path), encoder, length, limit, path)
    if len(text) <= limit * need:
        return _evenly(cut(encode(text, encoder, path), encoder, length, None, path), limit)
    places = [number * len(text) // limit for number in range(limit)]
    pieces = [encode(text[place : place + need], encoder, path) for place in places]
    # where a token stands for very many characters a piece may not fill a window
    enough = [ids for ids in pieces if len(ids) >= length] or pieces[:1]
    return [cut(ids, encoder, length, 1, path)[0] for ids in enough]


def _evenly(windows: list[Tensor], limit: int) -> list[Tensor]:
    count = min(limit, len(windows))
    return [windows[number * len(windows) // count] for number in range(count)]
