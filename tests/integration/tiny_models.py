"""Tiny random models of several families, and their tensors as a file would hold them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.dense import Dense
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.pipeline.encode import encode_tensor
from higgsx.transforms.hadamard import Hadamard

VOCABULARY = 96

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": (
        "LlamaForCausalLM",
        {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        {
            "model_type": "qwen2",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gptj": (
        "GPTJForCausalLM",
        {"model_type": "gptj", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8},
    ),
    "opt": (
        "OPTForCausalLM",
        {
            "model_type": "opt",
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
}
TIED = {"qwen2", "gpt2", "opt"}


@dataclass(frozen=True)
class Tiny:
    """A model in memory, the folder that it was saved to, and its configuration."""

    family: str
    model: transformers.PreTrainedModel
    folder: Path
    config: dict[str, object]

    def tensors(self) -> dict[str, torch.Tensor]:
        """By checkpoint name, as the folder holds them."""
        from safetensors.torch import load_file

        return load_file(self.folder / "model.safetensors")


def tiny(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Tiny:
    architecture, fields = FAMILIES[family]
    settings = {**fields, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(sum(map(ord, family)))
    model = getattr(transformers, architecture)._from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return Tiny(family, model, folder, json.loads((folder / "config.json").read_text()))


def described(name: str, tensor: torch.Tensor) -> Descriptor:
    """4 bits with a transform for most matrices, 8 for looked-up tables, anything else exact."""
    dtype = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[tensor.dtype]
    shape = tuple(tensor.shape)
    if len(shape) != 2:
        return Descriptor(dtype, shape, "", Dense(dtype))
    inputs_first = any(part in name for part in ("c_attn", "c_fc", "c_proj"))
    axes = "io" if inputs_first else "oi"
    if "embed" in name or "wte" in name or "wpe" in name:
        return Descriptor(dtype, shape, axes, Uniform.symmetric(8, 32))
    inputs = shape[0] if inputs_first else shape[1]
    return Descriptor(dtype, shape, axes, Codebook.plain("gauss16", 0), Hadamard.default(name, inputs))


Encoded = dict[str, tuple[Descriptor, dict[str, torch.Tensor]]]


def encoded(tensors: Mapping[str, torch.Tensor]) -> Encoded:
    """Every tensor of a checkpoint, as a file holds it."""
    found: Encoded = {}
    for name, tensor in tensors.items():
        descriptor = described(name, tensor)
        found[name] = (descriptor, {"": tensor}) if descriptor.is_dense else encode_tensor(tensor, descriptor)
    return found


def tokens(batch: int = 2, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=tokens()).logits
    return result
