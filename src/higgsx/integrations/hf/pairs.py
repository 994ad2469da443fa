"""Pairs of texts for models with an encoder and a decoder: of a user's, or made with the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from higgsx.errors import TextError
from higgsx.fidelity.material import read_pairs, share_of
from higgsx.fidelity.openings import load_openings
from higgsx.integrations.hf.drawing import drawn, say
from higgsx.tasks import NO_LABEL, Batches, Example, Wanted
from higgsx.tasks.example import padded, shifted

PAIRS_AT_ONCE = 16
LONGEST = 128
"""Tokens of a source from nothing."""
_SAID = 32
_ROUNDS = {"check": 1, "calibration": 8}


class Writing:
    """A tokenizer for sources and targets of one model."""

    def __init__(self, config: Any, tokenizer: Any, positions: int | None) -> None:
        self.config, self.tokenizer, self.positions = config, tokenizer, positions
        start = config.decoder_start_token_id
        self.start = int(start if start is not None else config.pad_token_id)
        end = config.eos_token_id
        self.ends = set(end if isinstance(end, list) else [] if end is None else [end])
        self.filler = int(config.pad_token_id or 0)

    def source(self, text: str, where: object) -> list[int]:
        return self._fitting(list(self.tokenizer(text)["input_ids"]), "source", where)

    def target(self, text: str, where: object) -> list[int]:
        """Start, text, end."""
        ids = list(self.tokenizer(text_target=text)["input_ids"])
        if ids and self.ends and ids[-1] not in self.ends:
            ids.append(min(self.ends))
        return self._fitting([self.start, *ids], "target", where)

    def _fitting(self, ids: list[int], what: str, where: object) -> list[int]:
        most, vocabulary = self.positions, int(self.config.get_text_config().vocab_size)
        # the last token of a target is said, never read
        length = len(ids) - (what == "target")
        if most is not None and length > most:
            raise TextError(
                f"the {what} is longer than the model can take", where=where, got=f"{length} tokens",
                expected=f"{most} at most",
            )  # fmt: skip
        outside = next((token for token in ids if not 0 <= token < vocabulary), None)
        if outside is not None or len(ids) < 2:
            raise TextError(
                f"the {what} gives no tokens, or one that the model does not have", where=where, got=outside,
                expected=f"0 to {vocabulary - 1}", remedy="use the tokenizer that belongs to the model",
            )  # fmt: skip
        return ids


def pair_batches(writing: Writing, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    """Several pairs at once. TextError for pairs that do not fit the model.

    `A|B` in a target are alternatives: the first is what the decoder is given, any counts as right.
    """
    path = wanted.path
    if path is None:
        return _from_nothing(writing, model, wanted)
    chosen = share_of(list(enumerate(read_pairs(path), 1)), wanted.part, wanted.shared, path)
    read: list[tuple[list[int], list[int], tuple[str, ...]]] = []
    count = 0
    for number, (source, target) in chosen:
        where = f"{path}, pair {number}"
        right = tuple(one.strip() for one in target.split("|") if one.strip())
        read.append((writing.source(source, where), writing.target(right[0], where), right))
        count += len(read[-1][1]) - 1
        if count >= wanted.most_tokens:
            break
    _require_known(writing, [ids for pair in read for ids in pair[:2]], path)
    examples = [
        _example(
            writing,
            [torch.tensor(source) for source, _, _ in some],
            [torch.tensor(target) for _, target, _ in some],
            tuple(right for _, _, right in some),
        )
        for some in (read[begin : begin + PAIRS_AT_ONCE] for begin in range(0, len(read), PAIRS_AT_ONCE))
    ]
    return Batches({"pairs": examples}, "pairs of the user's")


def _require_known(writing: Writing, rows: Sequence[list[int]], path: Path) -> None:
    unknown = writing.tokenizer.unk_token_id
    total = sum(map(len, rows))
    count = 0 if unknown is None else sum(ids.count(unknown) for ids in rows)
    if count > total / 4:
        raise TextError(
            "the pairs do not fit the model: its tokenizer does not know what they are written in",
            where=path, got=f"{count:,} of {total:,} tokens unknown",
            expected="texts of the kind that it was trained on",
        )  # fmt: skip


def _from_nothing(writing: Writing, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    longest = LONGEST if writing.positions is None else min(LONGEST, writing.positions)
    said = _SAID if writing.positions is None else min(_SAID, writing.positions - 1)
    examples: list[Example] = []
    count = 0
    for number in range(_ROUNDS[wanted.part]):
        for place, texts in enumerate(_sources(number)):
            made = writing.tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
            rows = [torch.tensor(ids) for ids in made if len(ids) > 1]
            if not rows:
                raise TextError(
                    "the tokenizer can express none of the openings", remedy="bring your own pairs"
                )
            seed = wanted.seed + 100 * number + place
            one = _example(writing, rows, _said(writing, model(), rows, said, seed), ())
            count += int((one.labels != NO_LABEL).sum())
            if examples and count > wanted.most_tokens:
                break
            examples.append(one)
    return Batches({"openings": examples}, "openings of this package, what follows drawn from the original")


def _sources(number: int) -> list[list[str]]:
    """Openings, in later rounds from further inside, so that the sources differ too."""
    every = [text for members in load_openings().values() for text in members]
    cut = [" ".join(text.split()[number:]) or text for text in every]
    return [cut[begin : begin + PAIRS_AT_ONCE] for begin in range(0, len(cut), PAIRS_AT_ONCE)]


def _said(writing: Writing, model: Any, rows: list[Tensor], most: int, seed: int) -> list[Tensor]:
    """Start and what the model says, drawn; where nothing can be drawn (NaN), the start again and again."""
    prompt = torch.full((len(rows), 1), writing.start)
    try:
        return say(model, _source(writing, rows), prompt, most, writing.ends, drawn(seed), least=2)
    except RuntimeError:
        return list(prompt.expand(-1, 4).clone())


def _source(writing: Writing, rows: list[Tensor]) -> dict[str, Tensor]:
    masks = [torch.ones_like(row) for row in rows]
    return {"input_ids": padded(rows, writing.filler), "attention_mask": padded(masks, 0)}


def _example(
    writing: Writing, sources: list[Tensor], targets: list[Tensor], right: tuple[tuple[str, ...], ...]
) -> Example:
    decoders, labels = zip(*(shifted(target, 1) for target in targets), strict=True)
    inputs = {
        **_source(writing, sources),
        "decoder_input_ids": padded([decoder[0] for decoder in decoders], writing.filler),
        "use_cache": False,
    }
    return Example(inputs, padded(list(labels), NO_LABEL).flatten(), right)
