"""Tiny models through the whole pipeline: a decoder with tied embeddings, an encoder with a decoder.

The first time the pipeline makes them. What it then decides (plan, order, spaces) is no part of the format
and may change with the planner and with transformers; so they are made again from what the file itself
records: the same weights, by name, encoded as the descriptors say.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from golden_parts import bell
from safetensors.torch import save_file

from higgsx.archive import Archive
from higgsx.codecs.base import torch_dtype
from higgsx.codecs.dense import Dense
from higgsx.descriptor import Descriptor
from higgsx.hgs import Draft, Writer
from higgsx.pipeline.encode import encode_tensor

MODELS: dict[str, tuple[dict[str, object], torch.dtype, str]] = {
    "model-decoder": (
        {
            "architectures": ["Qwen2ForCausalLM"],
            "dtype": "bfloat16",
            "hidden_size": 32,
            "intermediate_size": 48,
            "model_type": "qwen2",
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "tie_word_embeddings": True,
            "vocab_size": 40,
        },
        torch.bfloat16,
        "4.75",
    ),
    "model-encoder-decoder": (
        {
            "architectures": ["T5ForConditionalGeneration"],
            "d_ff": 40,
            "d_kv": 16,
            "d_model": 32,
            "decoder_start_token_id": 0,
            "dtype": "float32",
            "eos_token_id": 1,
            "model_type": "t5",
            "num_decoder_layers": 1,
            "num_heads": 1,
            "num_layers": 1,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "vocab_size": 40,
        },
        torch.float32,
        "4.5",
    ),
}

COPIES = {"model-decoder": {"lm_head.weight": "model.embed_tokens.weight"}}
"""Tied tensors that the checkpoint holds twice."""


def weights_of(model: str, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return bell(f"{model}/{name}", *shape).to(dtype)


def first(model: str, path: Path) -> None:
    """Through the front door."""
    import transformers

    import higgsx

    fields, dtype, bits = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        config = transformers.AutoConfig.for_model(**fields)
        with torch.device("meta"):
            skeleton = getattr(transformers, str(config.architectures[0]))(config)
        named = dict(skeleton.named_parameters())  # a tied parameter once, under its first name
        tensors = {name: weights_of(model, name, tuple(one.shape), dtype) for name, one in named.items()}
        for copy, stored in COPIES.get(model, {}).items():
            tensors[copy] = tensors[stored].clone()
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        higgsx.compress(folder, path, bits=bits, check=False)


def again(golden: Path, model: str, path: Path) -> None:
    """The file of the same content as `golden`, every byte of its weights chosen anew."""
    with Archive.open(golden) as archive:
        manifest, damage = archive.manifest, archive.file.damage()
        recorded = {name: one.descriptor for name, one in archive.tensors.items()}
        assets = archive.assets()
    drafted = {name: _open(descriptor) for name, descriptor in recorded.items()}
    listed = [
        (name, one.to_json(), [(name + suffix, *spec) for suffix, spec in one.arrays().items()])
        for name, one in drafted.items()
    ]
    with Writer(path, Draft(listed, manifest.ties, assets, manifest.plan, manifest.recipe)) as writer:
        for name, one in drafted.items():
            weights = weights_of(model, name, one.shape, torch_dtype(one.dtype))
            settled, arrays = encode_tensor(weights, one, str(manifest.recipe["options"]["method"]))
            writer.set_descriptor(name, settled.to_json())
            for suffix, array in arrays.items():
                writer.append(name + suffix, array.contiguous().view(-1).view(torch.uint8).numpy())
        writer.finish(damage)


def _open(descriptor: Descriptor) -> Descriptor:
    """As it was before the weights were seen: the exponent is found again."""
    if isinstance(descriptor.codec, Dense):
        return descriptor
    return descriptor.with_codec(
        type(descriptor.codec).from_params({**descriptor.codec.params(), "exponent": 0})
    )
