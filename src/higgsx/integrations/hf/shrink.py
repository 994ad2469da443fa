"""A small instance of a model's own class: the same code with little arithmetic, to try things out on."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

_LAYERS, _HEADS, _HEAD, _WIDE, _VOCABULARY, _POSITIONS = 2, 4, 16, 96, 160, 64
_MOST_WEIGHTS = 20_000_000
_HIDDEN = ("hidden_size", "d_model", "word_embed_proj_dim", "embed_dim", "hidden_dim")
_HEAD_COUNTS = ("num_attention_heads", "encoder_attention_heads", "decoder_attention_heads", "num_heads")
_LAYER_COUNTS = ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_WIDTHS = (
    "intermediate_size",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "d_ff",
    "n_inner",
    "moe_intermediate_size",
)
_LENGTHS = ("max_position_embeddings", "max_source_positions", "max_target_positions")


def small(cls: type[PreTrainedModel], config: Any) -> PreTrainedModel | None:
    """An instance in float32 with random weights, evaluation mode; None where the configuration cannot be
    shrunk to something that can be built and is small."""
    shrunk = copy.deepcopy(config)
    try:
        _shrink(shrunk)
        with torch.device("meta"):
            weights = sum(parameter.numel() for parameter in cls(copy.deepcopy(shrunk)).parameters())
        if weights > _MOST_WEIGHTS:
            return None
        shrunk._attn_implementation = "eager"
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return cls(shrunk).eval()
        finally:
            torch.set_default_dtype(before)
    except Exception:  # sizes that depend on each other in ways of this class alone
        return None


def _shrink(config: Any) -> None:
    heads, kv = _number(config, "num_attention_heads"), _number(config, "num_key_value_heads")
    few = min(_HEADS, heads or _HEADS)
    values: dict[str, int] = dict.fromkeys(_HIDDEN, few * _HEAD)
    values |= dict.fromkeys(_HEAD_COUNTS, few)
    values |= dict.fromkeys(_LAYER_COUNTS, _LAYERS)
    values |= dict.fromkeys(_WIDTHS, _WIDE)
    values |= dict.fromkeys(_LENGTHS, _POSITIONS)
    values |= {"vocab_size": _VOCABULARY, "head_dim": _HEAD, "rotary_dim": _HEAD // 2}
    if heads and kv:
        values["num_key_value_heads"] = few if kv == heads else max(1, few // 2)
    for name, value in values.items():
        if (before := _number(config, name)) is not None:
            setattr(config, name, min(before, value))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        if _number(config, name) is not None:
            setattr(config, name, 0)
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[:_LAYERS]


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if type(value) is int else None
