"""Tiny random models of every family that the lean decoder knows, and what transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import higgsx

VOCABULARY = 96
_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_SHARED_KEYS = {**_SMALL, "num_key_value_heads": 2}
_GEMMA = {
    **_SHARED_KEYS,
    "model_type": "gemma3_text",
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_GPT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}
_OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
}

ZOO: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SHARED_KEYS, "tie_word_embeddings": False},
    "llama-biases": {
        "model_type": "llama", **_SHARED_KEYS, "attention_bias": True, "mlp_bias": True,
        "tie_word_embeddings": True, "head_dim": 32,
    },
    "llama-one-key-head": {"model_type": "llama", **_SMALL, "num_key_value_heads": 1, "hidden_act": "gelu"},
    "llama-llama3": {"model_type": "llama", **_SHARED_KEYS, "rope_parameters": _LLAMA3},
    "llama-linear": {
        "model_type": "llama", **_SHARED_KEYS,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    },
    "llama-yarn": {"model_type": "llama", **_SHARED_KEYS, "rope_parameters": _YARN},
    "qwen2": {"model_type": "qwen2", **_SHARED_KEYS, "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2", **_SHARED_KEYS, "use_sliding_window": True, "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", **_SHARED_KEYS, "head_dim": 32, "attention_bias": True},
    "mistral-narrow": {"model_type": "mistral", **_SHARED_KEYS, "sliding_window": 4},
    "mistral-wide": {"model_type": "mistral", **_SHARED_KEYS, "sliding_window": 40},
    "gemma3": _GEMMA,
    "gemma3-capped": {
        **_GEMMA, "final_logit_softcapping": 2.0, "attention_bias": True,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 50000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        },
    },
    "phi3": {"model_type": "phi3", **_SHARED_KEYS, "sliding_window": 6, "pad_token_id": 0},
    "gpt2": {"model_type": "gpt2", **_GPT},
    "gpt2-scaled": {
        "model_type": "gpt2", **_GPT, "scale_attn_by_inverse_layer_idx": True, "n_inner": 80,
        "activation_function": "relu", "tie_word_embeddings": False,
    },
    "gptj": {"model_type": "gptj", **_GPT, "rotary_dim": 8},
    "gptj-whole": {"model_type": "gptj", **_GPT, "rotary_dim": 16},
    "opt": _OPT,
    "opt-norms-last": {**_OPT, "do_layer_norm_before": False, "enable_bias": False},
    "neox": {"model_type": "gpt_neox", **_SMALL, "rope_parameters": {
        "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    "neox-in-turn": {"model_type": "gpt_neox", **_SMALL, "use_parallel_residual": False},
    "phi": {"model_type": "phi", **_SMALL},
    "phi-inner-norms": {"model_type": "phi", **_SHARED_KEYS, "qk_layernorm": True},
}  # fmt: skip
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "gptj": "GPTJForCausalLM",
    "opt": "OPTForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "phi": "PhiForCausalLM",
}


def random_folder(name: str, folder: Path, **changes: object) -> Path:
    """A model of the zoo, saved; norms and biases are random too."""
    settings = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, **ZOO[name], **changes}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, _CLASSES[str(settings["model_type"])])._from_config(
        config, dtype=torch.bfloat16
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def through_transformers(path: Path, ids: list[int]) -> np.ndarray:
    """float32 logits of the same file, decoded and computed in float32."""
    model, _ = higgsx.load(path, dtype=torch.float32, packed=False)
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float().numpy()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the largest logit."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def ids_of(length: int = 21, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()
