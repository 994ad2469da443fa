"""Our attention under the name `higgsx` in transformers: `attn_implementation="higgsx"`.

It serves what has no mask, or the plain causal one; everything else goes on to transformers' own `sdpa`.
Between packed weights, whose products round their activations, it rounds to 16 bits.
"""

from __future__ import annotations

from typing import Any

import torch

from higgsx.errors import ModelError
from higgsx.kernels.attention import attention, declines_attention
from higgsx.nn.packed import is_packed

NAME = "higgsx"


def register() -> None:
    """Put it into transformers' tables, once. Imports transformers' models."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        # without a mask function of its own an implementation gets no masks at all
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        ALL_ATTENTION_FUNCTIONS.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: `[batch, heads, tokens, dim]` to `[batch, tokens, heads, dim]`."""
    if more.get("s_aux") is not None:
        raise ModelError(
            "attention sinks are not computed", where=type(module).__name__, remedy="use 'eager'"
        )
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    causal = causal and query.shape[2] > 1
    plain = attention_mask is None and not dropout
    plain = plain and all(more.get(name) is None for name in ("position_bias", "softcap"))
    if (
        plain
        and not more.get("output_attentions")
        and not torch.compiler.is_compiling()
        and declines_attention(query, key, value, causal) is None
    ):
        rounds = any(is_packed(part) for part in module.modules())
        return attention(query, key, value, scaling, causal, rounds), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    done: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
    )
    return done
