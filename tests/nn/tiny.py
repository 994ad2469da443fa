"""Tiny random models of many families, and weights encoded with the codecs alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import nn

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec, Scales
from higgsx.codecs.uniform import Uniform
from higgsx.descriptor import Descriptor
from higgsx.nn.census import Census, census
from higgsx.transforms.hadamard import Hadamard

CODECS: tuple[PanelCodec, ...] = (
    Uniform.symmetric(8, 0),
    Codebook.plain("gauss16", 32),
    Uniform.symmetric(5, 64),
    Codebook.plain("gauss8", 0),
)
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class Tiny:
    """A family: how to build it, how to call it, whether its forward pass runs on the meta device."""

    build: Callable[[], nn.Module]
    call: Callable[[nn.Module], Any]
    on_meta: bool = True
    generates: bool = False


_SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
_HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BOTH = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 1,
    **_ENDS,
}


_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_T5 |= {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
_SOUND = {"max_source_positions": 10, "max_target_positions": 12, "num_mel_bins": 8}
_PICTURE = {"hidden_size": 32, "intermediate_size": 64, "image_size": 16, "patch_size": 8}
_MAMBA = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}


def tokens(model: nn.Module, length: int = 5) -> torch.Tensor:
    # not zero: padding positions of some tables are never read
    return torch.arange(3, 3 + length, device=next(model.parameters()).device)[None]


def _text(model: nn.Module) -> Any:
    return model(input_ids=tokens(model))


def _text_to_text(model: nn.Module) -> Any:
    return model(input_ids=tokens(model), decoder_input_ids=tokens(model, 3))


def _image(model: nn.Module) -> Any:
    pixels = torch.linspace(-1, 1, 3 * 16 * 16, device=next(model.parameters()).device)
    return model(pixel_values=pixels.view(1, 3, 16, 16))


def _sound(model: nn.Module) -> Any:
    features = torch.linspace(-1, 1, 8 * 20, device=next(model.parameters()).device).view(1, 8, 20)
    return model(input_features=features, decoder_input_ids=tokens(model, 3))


def _decoder(model: type, config: type, **extra: Any) -> Tiny:
    return Tiny(lambda: model(config(**{**_SMALL, **_ENDS, **extra})), _text, generates=True)


def _gpt(model: type, config: type, **extra: Any) -> Tiny:
    return Tiny(lambda: model(config(**_GPT, **_ENDS, **extra)), _text, generates=True)


TINY: dict[str, Tiny] = {
    "llama": _decoder(hf.LlamaForCausalLM, hf.LlamaConfig, num_key_value_heads=2),
    "qwen2": _decoder(hf.Qwen2ForCausalLM, hf.Qwen2Config, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": _decoder(hf.Gemma2ForCausalLM, hf.Gemma2Config, num_key_value_heads=2, head_dim=8),
    "falcon": _decoder(hf.FalconForCausalLM, hf.FalconConfig),
    "mixtral": _decoder(hf.MixtralForCausalLM, hf.MixtralConfig, num_key_value_heads=2, num_local_experts=4),
    "gpt-oss": _decoder(
        hf.GptOssForCausalLM,
        hf.GptOssConfig,
        num_key_value_heads=2,
        num_local_experts=4,
        head_dim=8,
        num_experts_per_tok=2,
    ),
    "gpt2": _gpt(hf.GPT2LMHeadModel, hf.GPT2Config),
    "gptj": _gpt(hf.GPTJForCausalLM, hf.GPTJConfig, rotary_dim=4),
    "opt": _decoder(hf.OPTForCausalLM, hf.OPTConfig, ffn_dim=64, word_embed_proj_dim=32),
    "bert": Tiny(lambda: hf.BertForMaskedLM(hf.BertConfig(**_SMALL)), _text),
    "bert encoder": Tiny(lambda: hf.BertModel(hf.BertConfig(**_SMALL)), _text),
    "bart": Tiny(
        lambda: hf.BartForConditionalGeneration(hf.BartConfig(**_BOTH, max_position_embeddings=32)),
        _text_to_text,
        on_meta=False,
        generates=True,
    ),
    "t5": Tiny(lambda: hf.T5ForConditionalGeneration(hf.T5Config(**_T5)), _text_to_text, generates=True),
    "whisper": Tiny(lambda: hf.WhisperForConditionalGeneration(hf.WhisperConfig(**_BOTH, **_SOUND)), _sound),
    "vit": Tiny(lambda: hf.ViTForImageClassification(hf.ViTConfig(**_HEADS, **_PICTURE)), _image),
    "mamba": Tiny(lambda: hf.MambaForCausalLM(hf.MambaConfig(**_MAMBA)), _text),
}


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A real instance with random weights, also where a class starts with zeros or ones."""
    torch.manual_seed(0)
    model = TINY[name].build().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return model


def encode(values: torch.Tensor, descriptor: Descriptor) -> dict[str, torch.Tensor]:
    """Arrays for a tensor: nearest codes at scales from the largest value of each block."""
    codec = descriptor.codec
    assert isinstance(codec, PanelCodec)
    matrix = descriptor.to_matrix(values.detach().float()).reshape(-1, descriptor.matrix.inputs)
    parts = []
    for rows in matrix.split(descriptor.matrix.outputs):
        x = rows.t().contiguous().clone()
        if descriptor.transform is not None:
            x = descriptor.transform.encode(x)
        parts.append(codec.pack(*_codes(codec, x)))
    stacks = {
        "_hgs": [payload for payload, _ in parts],
        "_hgsr": [row for _, row in parts if row is not None],
    }
    shapes = descriptor.arrays()
    return {suffix: torch.stack(stacks[suffix]).view(shape) for suffix, (_, shape) in shapes.items()}


def _codes(codec: PanelCodec, x: torch.Tensor) -> tuple[torch.Tensor, Scales]:
    top = float(codec.levels().abs().max())
    blocks = list(codec.blocks(x.shape[0]))
    needed = torch.stack([x[begin : begin + width].abs().amax(0) / top for begin, width in blocks]).clamp_min(
        1e-4
    )
    if codec.block == 0:
        scales = Scales(None, needed[0].half(), None)
    else:
        row = (needed.amax(0) / 255).half()
        scales = Scales((needed / row.float()).round().clamp(1, 255).to(torch.uint8), row, None)
    steps = codec.multipliers(scales)
    codes = [
        codec.nearest_codes(x[begin : begin + width] / steps[i]) for i, (begin, width) in enumerate(blocks)
    ]
    return torch.cat(codes), scales


Encoded = tuple[dict[str, Descriptor], dict[str, dict[str, torch.Tensor]]]


def encode_model(model: nn.Module, found: Census) -> Encoded:
    """Every weight of a census, with codecs taken in turn and the transform of its input space."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    descriptors, arrays = {}, {}
    for weight in found.weights:
        plain = Descriptor(
            DTYPES[weight.dtype], weight.shape, weight.axes, CODECS[weight.order % len(CODECS)]
        )
        transform = Hadamard.default(weight.space, plain.matrix.inputs, plain.segment)
        whole = Descriptor(plain.dtype, plain.shape, plain.axes, plain.codec, transform)
        descriptors[weight.name] = whole
        arrays[weight.name] = encode(parameters[weight.name], whole)
    return descriptors, arrays


def twin_of(model: nn.Module, encoded: Encoded) -> nn.Module:
    """The original classes holding the decoded values, made without our modules."""
    twin = copy.deepcopy(model)
    parameters = dict(twin.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, descriptor in encoded[0].items():
            parameters[name].copy_(descriptor.decode(encoded[1][name]).to(parameters[name].dtype))
    return twin


def census_of(name: str) -> Census:
    """On the meta device where that works."""
    tiny = TINY[name]
    with torch.device("meta" if tiny.on_meta else "cpu"):
        model = tiny.build().eval()
    return census(model, tiny.call)


def logits(result: Any) -> torch.Tensor:
    return result.logits if "logits" in result else result.last_hidden_state
