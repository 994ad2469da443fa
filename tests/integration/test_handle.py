"""The model handle: structure, names and a tiny call from a configuration; and configurations from anyone."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import FAMILIES, TIED, VOCABULARY, Tiny, logits, tiny
from torch import nn

from higgsx.errors import ModelError, UsageError
from higgsx.integrations.hf.handle import Handle


def shapes(original: Tiny) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in original.tensors().items()}


def handle(original: Tiny) -> Handle:
    return Handle(original.config, shapes(original), original.folder)


def test_skeleton_has_the_structure_and_no_weights(any_tiny: Tiny) -> None:
    model = handle(any_tiny).skeleton()
    assert type(model) is type(any_tiny.model) and not model.training
    assert all(parameter.is_meta for parameter in model.parameters())
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in any_tiny.model.named_parameters()
    }
    if any_tiny.family in TIED:
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_call_runs_on_the_meta_device_and_on_a_real_one(any_tiny: Tiny) -> None:
    ours = handle(any_tiny)
    output = ours.call(ours.skeleton())
    assert output.logits.is_meta and output.logits.shape == (1, 8, VOCABULARY)
    real = ours.call(ours.materialise(torch.float32))
    assert real.logits.shape == (1, 8, VOCABULARY) and real.logits.isfinite().all()
    assert not real.logits.requires_grad and real.past_key_values is None


def test_call_tries_nothing_out_while_it_is_watched(any_tiny: Tiny) -> None:
    ours = handle(any_tiny)
    model = ours.skeleton()
    calls: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_pre_hook(lambda module, args: calls.append(module))
    try:
        ours.call(model)
    finally:
        hook.remove()
    assert calls.count(model) == 1
    assert set(calls) <= set(model.modules())


def test_names_cover_the_checkpoint(any_tiny: Tiny) -> None:
    ours = handle(any_tiny)
    assert dict(ours.names) == {name: name for name in any_tiny.tensors()}
    assert ours.unmapped == {} and ours.missing == ()


def test_names_of_a_base_model_get_its_prefix(tmp_path: Path) -> None:
    original = tiny("gpt2", tmp_path)
    bare = {name.removeprefix("transformer."): shape for name, shape in shapes(original).items()}
    ours = Handle(original.config, {**bare, "h.0.attn.bias": (1, 1, 64, 64), "odd": (3,)})
    assert ours.names["wte.weight"] == "transformer.wte.weight"
    assert set(ours.unmapped) == {"h.0.attn.bias", "odd"} and ours.ignored == {"h.0.attn.bias"}
    assert ours.missing == ()


def test_missing_weights_are_listed_but_not_tied_ones(tmp_path: Path) -> None:
    original = tiny("qwen2", tmp_path)
    given = shapes(original)
    assert "lm_head.weight" not in given
    del given["model.layers.1.mlp.up_proj.weight"]
    assert Handle(original.config, given).missing == ("model.layers.1.mlp.up_proj.weight",)


def test_fused_experts_are_listed_apart_from_what_stands_as_it_is() -> None:
    config = transformers.MixtralConfig(
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        vocab_size=VOCABULARY,
    )
    experts = {
        f"model.layers.0.block_sparse_moe.experts.{expert}.{part}.weight": shape
        for expert in range(2)
        for part, shape in (("w1", (32, 64)), ("w2", (64, 32)), ("w3", (32, 64)))
    }
    router = "model.layers.0.block_sparse_moe.gate.weight"
    data = {**config.to_dict(), "architectures": ["MixtralForCausalLM"]}
    ours = Handle(data, {**experts, router: (2, 64)})
    assert ours.names == {router: "model.layers.0.mlp.gate.weight"}
    assert set(ours.unmapped) == set(experts)
    assert "experts.gate_up_proj" in ours.unmapped["model.layers.0.block_sparse_moe.experts.1.w3.weight"]


def test_a_shape_that_differs_from_the_configuration_is_named(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    given = {**shapes(original), "model.norm.weight": (65,)}
    with pytest.raises(ModelError, match=r"model\.norm\.weight \[65\] instead of \[64\]"):
        _ = Handle(original.config, given).names


def test_materialise_gives_the_original(any_tiny: Tiny) -> None:
    model = handle(any_tiny).materialise(torch.float32)
    assert torch.equal(logits(model), logits(any_tiny.model))
    assert handle(any_tiny).materialise(torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UsageError, match="no folder"):
        Handle(any_tiny.config, shapes(any_tiny)).materialise(torch.float32)


def test_materialise_refuses_a_checkpoint_with_holes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = tiny("llama", tmp_path)
    tensors = original.tensors()
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights are missing.*model\.layers\.0\.mlp\.up_proj\.weight"):
        handle(original).materialise(torch.float32)


OTHERS = {
    "bart": (
        "BartForConditionalGeneration",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
        },
    ),
    "bert": (
        "BertForMaskedLM",
        {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4, "d_ff": 32},
    ),
    "vit": (
        "ViTForImageClassification",
        {
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "image_size": 16,
            "patch_size": 8,
        },
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_source_positions": 16,
            "max_target_positions": 16,
            "num_mel_bins": 8,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
            "begin_suppress_tokens": None,
        },
    ),
}


@pytest.mark.parametrize("model_type", sorted(OTHERS))
def test_call_knows_other_kinds_of_models_by_their_structure(model_type: str) -> None:
    architecture, fields = OTHERS[model_type]
    config = {"model_type": model_type, "vocab_size": VOCABULARY, **fields, "architectures": [architecture]}
    ours = Handle(config, {})
    assert ours.call(ours.skeleton()).logits.is_meta


def plain(**changes: object) -> dict[str, object]:
    architecture, fields = FAMILIES["llama"]
    return {**fields, "vocab_size": VOCABULARY, "architectures": [architecture], **changes}


def test_the_class_follows_the_architecture_else_the_kind_of_model() -> None:
    assert Handle(plain(), {}).cls is transformers.LlamaForCausalLM
    assert Handle(plain(architectures=["LlamaModel"]), {}).cls is transformers.LlamaModel
    assert Handle(plain(architectures=["LlamaForSequenceClassification"]), {}).cls.__name__.endswith(
        "Classification"
    )
    assert Handle(plain(architectures=None), {}).cls is transformers.LlamaForCausalLM


def test_how_somebody_once_ran_it_is_left_out() -> None:
    ours = Handle(
        plain(
            _attn_implementation="someone/kernels",
            attn_implementation="someone/kernels",
            transformers_weights="../x",
            _name_or_path="somewhere",
            unknown_key=3,
        ),
        {},
    )
    assert ours.config.unknown_key == 3
    assert not hasattr(ours.config, "transformers_weights") and ours.config._name_or_path == ""
    assert ours.skeleton().config._attn_implementation == "eager"


HOSTILE: dict[str, tuple[Callable[[], dict[str, object]], str]] = {
    "auto_map": (
        lambda: plain(auto_map={"AutoModelForCausalLM": "modeling.Evil"}),
        "auto_map: asks for code",
    ),
    "trust": (lambda: plain(trust_remote_code=True), "trust_remote_code: asks for code"),
    "internal": (lambda: plain(_attn_implementation_internal="evil/kernel"), "_internal: asks for code"),
    "nested": (
        lambda: {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "auto_map": {"AutoConfig": "x.Y"}},
        },
        "config.json: text_config: auto_map: asks for code",
    ),
    "in a list": (
        lambda: plain(layers=[{"deep": {"custom_pipelines": {"x": "y"}}}]),
        "custom_pipelines: asks for code",
    ),
    "unknown type": (lambda: plain(model_type="os"), "no such model type, got 'os'"),
    "no type": (lambda: {"architectures": ["LlamaForCausalLM"]}, "no such model type, got None"),
    "other architecture": (
        lambda: plain(architectures=["GPT2LMHeadModel"]),
        "no such architecture for this model type",
    ),
    "no architecture": (
        lambda: plain(architectures=["__import__"]),
        "no such architecture for this model type",
    ),
    "quantized": (
        lambda: plain(quantization_config={"quant_method": "gptq"}),
        "already quantized, got method gptq",
    ),
    "dtype": (lambda: plain(dtype="load"), "unknown dtype, got 'load'"),
    "layers": (lambda: plain(num_hidden_layers=10**9), "num_hidden_layers: unreasonable size"),
    "positions": (lambda: plain(max_position_embeddings=10**12), "unreasonable size"),
    "sizes": (lambda: plain(hidden_size="large"), "not a valid configuration"),
    "activation": (lambda: plain(hidden_act="os.system"), "does not make a model"),
    "download": (lambda: plain(use_pretrained_backbone=True), "asks to download another model"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_configurations_are_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    make, message = HOSTILE[case]
    with pytest.raises(ModelError, match=message):
        Handle(make(), {}).skeleton()


def test_nesting_without_end_is_refused() -> None:
    config: dict[str, object] = {}
    for _ in range(2000):
        config = {"text_config": config}
    with pytest.raises(ModelError, match="nested too deeply"):
        Handle(plain(**config), {})
