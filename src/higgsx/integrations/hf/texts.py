"""Texts for models that read them whole: encoders, classifiers, models that find hidden words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from higgsx.errors import TextError
from higgsx.fidelity.material import share_of
from higgsx.fidelity.openings import load_openings
from higgsx.fidelity.texts import read_text
from higgsx.integrations.hf.drawing import drawn
from higgsx.tasks import NO_LABEL, Batches, Example, Labels, Wanted
from higgsx.tasks.example import placed

LONGEST = 256
TEXTS_AT_ONCE = 8
_HIDDEN = 7
"""One token in so many is hidden."""


class Reading:
    """A tokenizer with its special tokens, and how long a text may be."""

    def __init__(self, tokenizer: Any, positions: int | None, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.longest = LONGEST if positions is None else min(LONGEST, positions)

    def batch(self, texts: Sequence[str], longest: int, where: object) -> dict[str, Tensor]:
        """Ids and mask [B, T], longer texts cut as the tokenizer cuts them."""
        made = self.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
        highest = max((max(ids) for ids in made if ids), default=-1)
        if highest < 0 or highest >= self.vocabulary:
            raise TextError(
                "the tokenizer gives nothing, or a token id that the model does not have", where=where,
                got=highest, expected=f"0 to {self.vocabulary - 1}",
                remedy="use the tokenizer that belongs to the model",
            )  # fmt: skip
        filler = self.tokenizer.pad_token_id or 0
        rows = [torch.tensor(ids) for ids in made]
        pad = torch.nn.utils.rnn.pad_sequence
        masks = [torch.ones(len(ids), dtype=torch.int64) for ids in made]
        return {
            "input_ids": pad(rows, batch_first=True, padding_value=filler),
            "attention_mask": pad(masks, batch_first=True),
        }


def vector_batches(reading: Reading, wanted: Wanted) -> Batches:
    """Texts for an encoder: every real token counts."""
    examples = []
    for inputs in _inputs(reading, wanted):
        labels = torch.where(inputs["attention_mask"] == 1, 0, NO_LABEL).flatten()
        examples.append(Example(inputs, labels))
    return Batches(*_named(wanted.path, examples))


def label_batches(reading: Reading, hides: bool, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    """Texts with hidden words, or with labels that are drawn from the model (there is no other source)."""
    examples = []
    for number, inputs in enumerate(_inputs(reading, wanted)):
        if hides:
            examples.append(_hidden(reading, inputs, number))
            continue
        with torch.inference_mode():
            scores = Labels().read(model()(**placed(inputs, model())))
        flat = scores.reshape(-1, scores.shape[-1])
        labels = drawn(wanted.seed + number)(flat) if flat.isfinite().all() else flat.argmax(1)
        if scores.dim() == 3:
            labels = torch.where(inputs["attention_mask"].flatten() == 1, labels.cpu(), NO_LABEL)
        examples.append(Example(inputs, labels))
    return Batches(*_named(wanted.path, examples))


def _hidden(reading: Reading, inputs: dict[str, Tensor], number: int) -> Example:
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    place = torch.arange(ids.shape[1]) + number
    special = torch.isin(ids, torch.tensor(reading.tokenizer.all_special_ids))
    hidden = (place % _HIDDEN == 3)[None] & (mask == 1) & ~special
    if not hidden.any():
        hidden = (mask == 1) & ~special
    filled = torch.where(hidden, reading.tokenizer.mask_token_id or 0, ids)
    labels = torch.where(hidden, ids, NO_LABEL).flatten()
    return Example({**inputs, "input_ids": filled}, labels)


def _named(path: Path | None, examples: list[Example]) -> tuple[dict[str, list[Example]], str]:
    if path is None:
        return {"openings": examples}, "openings of this package"
    return {"texts": examples}, "lines of a text of the user's"


def _inputs(reading: Reading, wanted: Wanted) -> list[dict[str, Tensor]]:
    path = wanted.path
    texts = _made(wanted) if path is None else share_of(_lines(path), wanted.part, wanted.shared, path)
    longest = min(wanted.window or reading.longest, reading.longest)
    found: list[dict[str, Tensor]] = []
    count = 0
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        inputs = reading.batch(texts[begin : begin + TEXTS_AT_ONCE], longest, path or "openings")
        count += int(inputs["attention_mask"].sum())
        if found and count > wanted.most_tokens:
            break
        found.append(inputs)
    return found


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _made(wanted: Wanted) -> list[str]:
    """Openings alone, then two after each other. The parts share none."""
    rest = 0 if wanted.part == "check" else 1
    every = [text for members in load_openings().values() for text in members[rest::2]]
    steps = range(1, 2 if wanted.part == "check" else len(every))
    pairs = [
        f"{one} {every[(place + step) % len(every)]}" for step in steps for place, one in enumerate(every)
    ]
    return [*every, *pairs]
