"""What a model with an encoder and a decoder would say itself: drawn token by token, or the likeliest."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from higgsx.tasks.example import placed

Choose = Callable[[Tensor], Tensor]
"""Logits [B, V] → ids [B]."""


def drawn(seed: int) -> Choose:
    """One of all tokens by the model's plain distribution. RuntimeError where that is NaN."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        chances = torch.softmax(logits.float().cpu(), dim=-1)
        return torch.multinomial(chances, 1, generator=generator)[:, 0]

    return choose


def say(
    model: Any,
    inputs: Mapping[str, Any],
    prompt: Tensor,
    most: int,
    ends: Collection[int],
    choose: Choose,
    least: int = 1,
) -> list[Tensor]:
    """For each item of a batch the prompt and what follows [n], up to and with its end.

    inputs  of the encoder
    prompt  int64 [B, P]
    most    tokens after the prompt at most
    ends    ids that end a text; not said among the first `least` tokens
    """
    ending = torch.tensor(sorted(ends), dtype=torch.int64)
    with torch.inference_mode():
        heard = model.get_encoder()(**_known(model.get_encoder(), placed(inputs, model)))
        more = {name: value for name, value in placed(inputs, model).items() if name == "attention_mask"}
        ids = prompt.clone()
        open_ = torch.ones(len(ids), dtype=torch.bool)
        lengths = torch.full((len(ids),), prompt.shape[1] + most)
        cache: Any = None
        named = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        for count in range(most):
            # with a cache of keys and values only the newest token is computed; a model without gets them all
            given = ids if cache is None else ids[:, -1:]
            output = model(
                encoder_outputs=heard,
                decoder_input_ids=given.to(model.device),
                use_cache=True,
                **{named: cache},
                **more,
            )
            cache = getattr(output, named, None)
            logits = output.logits[:, -1].float().cpu()
            if count < least:
                logits[:, ending] = -torch.inf
            ids = torch.cat([ids, choose(logits)[:, None]], dim=1)
            ended = open_ & torch.isin(ids[:, -1], ending)
            lengths[ended] = ids.shape[1]
            open_ &= ~ended
            if not open_.any():
                break
    return [row[: int(length)].clone() for row, length in zip(ids, lengths, strict=True)]


def _known(encoder: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the inputs that the encoder itself takes."""
    names = inspect.signature(encoder.forward).parameters
    return {name: value for name, value in inputs.items() if name in names}
