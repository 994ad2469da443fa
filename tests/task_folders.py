"""Tiny random models for every kind of work, and the small trained ones that may lie beside the project."""

from __future__ import annotations

import shutil
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

TRAINED = Path(__file__).parents[2] / "shared" / "models"
TALES = Path(__file__).parents[1] / "src" / "higgsx" / "data" / "tales-1m"
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_TWO = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "encoder": ("BertModel", {"model_type": "bert", **_SMALL, "max_position_embeddings": 64}),
    "hidden words": ("BertForMaskedLM", {"model_type": "bert", **_SMALL, "max_position_embeddings": 64}),
    "kinds of texts": (
        "BertForSequenceClassification",
        {"model_type": "bert", **_SMALL, "max_position_embeddings": 64, "num_labels": 3},
    ),
    "pairs": (
        "BartForConditionalGeneration",
        {"model_type": "bart", **_TWO, "max_position_embeddings": 96, "decoder_start_token_id": 2},
    ),
    "image": (
        "ViTForImageClassification",
        {"model_type": "vit", **_SMALL, "image_size": 16, "patch_size": 4, "num_labels": 5},
    ),
    "outputs": (
        "ViTModel",
        {"model_type": "vit", **_SMALL, "image_size": 16, "patch_size": 4},
    ),
}


def task_folder(kind: str, folder: Path) -> Path:
    """A tiny random model; those that read text have the tokenizer of the model that the package brings."""
    architecture, fields = MODELS[kind]
    settings = dict(fields)
    if kind not in ("image", "outputs"):
        settings |= {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(sum(map(ord, kind)))
    model = getattr(transformers, architecture)._from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if kind not in ("image", "outputs"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TALES / name, folder / name)
    return folder


def trained(name: str) -> Path:
    """A small trained model, or a skip that says why."""
    folder = TRAINED / name
    if not folder.is_dir():
        pytest.skip(f"shared/models/{name} is not on this machine")
    return folder


def write_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1, width: int = 2) -> Path:
    """`samples` from -1 to 1, interleaved where there are several channels."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        top = 2 ** (8 * width - 1)
        whole = np.clip(np.round(samples * top), -top, top - 1).astype(np.int64)
        if width == 1:
            file.writeframes((whole + 128).astype(np.uint8).tobytes())
        else:
            file.writeframes(b"".join(struct.pack("<q", one)[:width] for one in whole.tolist()))
    return path
