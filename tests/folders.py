"""Tiny random models as folders, and the damage that tests do to folders."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

VOCABULARY = 96
_ROPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}

FAMILIES: dict[str, tuple[str, torch.dtype, dict[str, object]]] = {
    "llama": (
        "LlamaForCausalLM",
        torch.bfloat16,
        {"model_type": "llama", **_ROPE, "num_key_value_heads": 2, "tie_word_embeddings": False},
    ),
    "qwen2-tied": (
        "Qwen2ForCausalLM",
        torch.bfloat16,
        {"model_type": "qwen2", **_ROPE, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "qwen2-untied": (
        "Qwen2ForCausalLM",
        torch.float32,
        {"model_type": "qwen2", **_ROPE, "num_key_value_heads": 2, "tie_word_embeddings": False},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        torch.float32,
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    "gptj": (
        "GPTJForCausalLM",
        torch.float16,
        {"model_type": "gptj", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8},
    ),
    "opt": (
        "OPTForCausalLM",
        torch.float16,
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
TIED = {"qwen2-tied", "gpt2", "opt"}


def tiny_model(family: str, **changes: object) -> transformers.PreTrainedModel:
    architecture, dtype, fields = FAMILIES[family]
    settings = {
        **fields,
        **changes,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(sum(map(ord, family)))
    model = getattr(transformers, architecture)._from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tiny_folder(family: str, folder: Path, shards: str = "1GB", **changes: object) -> Path:
    tiny_model(family, **changes).save_pretrained(folder, max_shard_size=shards)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    copies = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def write_shards(folder: Path, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Shards by file name, and their index; a single file that stands there goes."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    where = {}
    for file, tensors in parts.items():
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / file)
        where |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def listing(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sparse_file(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> None:
    """A safetensors file with a correct header and no data: name → dtype, shape, bytes."""
    entries: dict[str, object] = {}
    offset = 0
    for name, (dtype, shape, nbytes) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
