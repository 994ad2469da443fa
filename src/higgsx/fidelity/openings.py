"""Text that the user need not bring: short openings, continued by the model itself.

A model's own continuations are text that it finds likely, in whatever it has learned: KL measured on them is
an average over its own distribution. The openings were written for this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import cast

import torch
from torch import Tensor

from higgsx import io
from higgsx.errors import ModelError, TextError
from higgsx.fidelity.texts import encode
from higgsx.tasks import Encoder

LONGEST_OPENING = 24
"""Tokens of an opening that are kept; the rest of a window is the model's own."""
_SHORTEST_OPENING = 4

Generate = Callable[[Tensor, int, int], Tensor]
"""(ids [B, n], count, seed) → ids [B, n + count]: each row with `count` tokens more, drawn at temperature 1
from the model's plain distribution by a generator with that seed. End-of-text is a token like any other."""


def load_openings() -> dict[str, list[str]]:
    """Domain → openings."""
    found = resources.files("higgsx").joinpath("data/openings.json")
    with resources.as_file(found) as path:
        return cast(dict[str, list[str]], io.read_json(path))


def continue_openings(
    generate: Generate,
    encoder: Encoder,
    openings: Mapping[str, Sequence[str]] | None = None,
    *,
    length: int = 128,
    seed: int = 0,
) -> dict[str, list[Tensor]]:
    """Windows [1, length] by domain (default: the package's openings).

    All openings are cut to the same number of tokens, so that `generate` gets one plain batch and needs no
    padding. An opening that the tokenizer can hardly express is left out. TextError: none can be expressed,
    a foreign tokenizer, or windows too short. ModelError: `generate` does not keep to its contract.
    """
    coded = [
        (domain, ids)
        for domain, members in (load_openings() if openings is None else openings).items()
        for ids in (encode(text, encoder, "openings") for text in members)
        if len(ids) >= _SHORTEST_OPENING
    ]
    if not coded:
        raise TextError("the tokenizer can express none of the openings", remedy="bring a text of your own")
    front = [] if encoder.first is None else [encoder.first]
    kept = min(LONGEST_OPENING, *(len(ids) for _, ids in coded))
    batch = torch.tensor([front + ids[:kept] for _, ids in coded])
    count = length - batch.shape[1]
    if count < 1:
        raise TextError(
            "windows too short to continue the openings",
            got=f"{length} tokens",
            expected=f"more than {batch.shape[1]}",
        )
    texts = generate(batch, count, seed).cpu()
    _check(texts, batch, length, encoder.vocabulary)
    windows: dict[str, list[Tensor]] = {}
    for (domain, _), row in zip(coded, texts, strict=True):
        windows.setdefault(domain, []).append(row[None])
    return windows


def _check(texts: Tensor, batch: Tensor, length: int, vocabulary: int) -> None:
    if texts.shape != (len(batch), length) or not torch.equal(texts[:, : batch.shape[1]], batch):
        raise ModelError(
            "continuing the openings gave something else than they, continued",
            got=f"shape {tuple(texts.shape)}",
            expected=f"shape {(len(batch), length)}",
        )
    if int(texts.min()) < 0 or int(texts.max()) >= vocabulary:
        raise ModelError("the model continued with a token id that it does not have", got=int(texts.max()))
