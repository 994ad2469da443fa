"""Folders written by `save_pretrained`: the same model comes back, and nobody else gets random weights."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import TIED, Tiny, encoded, logits, tiny, tokens

import higgsx.integrations.hf.boot
from higgsx.errors import FormatError, ModelError, UsageError
from higgsx.integrations.hf.config import HiggsxConfig
from higgsx.integrations.hf.load import load_model
from higgsx.nn.densify import densify
from higgsx.nn.packed import is_packed, packed_parameters


def saved(original: Tiny, folder: Path, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Save the compressed model; returns its logits."""
    model = load_model(encoded(original.tensors()), original.config, dtype=dtype)
    before = logits(model)
    model.save_pretrained(folder)
    return before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_round_trip_is_bit_equal(any_tiny: Tiny, tmp_path: Path, dtype: torch.dtype) -> None:
    before = saved(any_tiny, tmp_path / "saved", dtype)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(info.values()), info
    assert model.dtype == dtype and not model.training
    assert torch.equal(logits(model), before)
    again = tmp_path / "again"
    model.save_pretrained(again)
    assert (again / "model.safetensors").read_bytes() == (tmp_path / "saved/model.safetensors").read_bytes()


@pytest.mark.parametrize("family", sorted(TIED))
def test_tied_weights_are_saved_once_and_come_back_as_one(family: str, tmp_path: Path) -> None:
    original = tiny(family, tmp_path / "original")
    saved(original, tmp_path / "saved")
    with safe_open(tmp_path / "saved/model.safetensors", "pt") as file:
        assert not any(name.startswith("lm_head.weight_hgs") for name in file.keys())  # noqa: SIM118
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert model.get_input_embeddings().weight_hgs is model.get_output_embeddings().weight_hgs


def test_base_model_of_a_saved_folder(any_tiny: Tiny, tmp_path: Path) -> None:
    saved(any_tiny, tmp_path / "saved")
    base = transformers.AutoModel.from_pretrained(tmp_path / "saved")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        ours = base(input_ids=tokens()).last_hidden_state
        expected = whole.base_model(input_ids=tokens()).last_hidden_state
    assert any(is_packed(module) for module in base.modules())
    assert torch.equal(ours, expected)


def test_what_became_dense_is_saved_dense(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config)
    densify(model, ["model.layers.0.mlp", "lm_head"])
    before = logits(model)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert packed_parameters(again.lm_head) == () and packed_parameters(
        again.model.layers[1].mlp.up_proj
    ) == ("weight",)
    assert torch.equal(logits(again), before)


@pytest.mark.parametrize("family", sorted(TIED))
def test_ties_survive_densifying_resizing_and_copies(
    family: str, tmp_path: Path, reference_kernels: None
) -> None:
    original = tiny(family, tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config)
    before = logits(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        other.tie_weights()
        assert other.get_input_embeddings().weight_hgs is other.get_output_embeddings().weight_hgs
        assert torch.equal(logits(other), before)
    densify(model)
    model.tie_weights()
    assert torch.equal(logits(model), before)
    model.resize_token_embeddings(100, mean_resizing=False)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert logits(model).shape[-1] == 100


def test_dequantize_gives_an_ordinary_folder(any_tiny: Tiny, tmp_path: Path, reference_kernels: None) -> None:
    before = saved(any_tiny, tmp_path / "saved", torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").dequantize()
    assert torch.equal(logits(model), before)
    model.save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    assert not any(is_packed(module) for module in plain.modules())
    assert torch.equal(logits(plain), before)


def test_sharded_folder(tmp_path: Path) -> None:
    original = tiny("qwen2", tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))


def test_three_tied_names_parts_alone_and_weights_kept_in_float32(
    tmp_path: Path, reference_kernels: None
) -> None:
    torch.manual_seed(3)
    config = transformers.T5Config(
        d_model=64, d_kv=16, num_layers=1, num_heads=4, d_ff=96, vocab_size=96, decoder_start_token_id=0
    )
    original = transformers.T5ForConditionalGeneration(config).eval()
    original.save_pretrained(tmp_path / "original")
    weights = encoded(load_file(tmp_path / "original/model.safetensors"))
    settings = json.loads((tmp_path / "original/config.json").read_text())
    model = load_model(weights, settings, dtype=torch.float16)
    inner = model.encoder.block[0].layer[1].DenseReluDense
    assert (inner.wi.weight.dtype, inner.wo.weight.dtype) == (torch.float16, torch.float32)
    tied = (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens, model.lm_head)
    assert len({id(module.weight_hgs) for module in tied}) == 1
    model.save_pretrained(tmp_path / "saved")
    ids = tokens()
    expanded = load_model(weights, settings, dtype=torch.float16, packed=False)
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "saved", dtype=torch.float16)
    with torch.no_grad():
        before = model(input_ids=ids, decoder_input_ids=ids).logits
        for other in (expanded, again):
            assert torch.equal(other(input_ids=ids, decoder_input_ids=ids).logits, before)
    encoder = transformers.T5EncoderModel.from_pretrained(tmp_path / "saved")
    assert encoder.encoder.embed_tokens.weight_hgs is encoder.shared.weight_hgs


def test_generate_compiles_and_trains_are_allowed(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config)
    quantizer = model.hf_quantizer
    assert quantizer.is_serializable() and quantizer.is_trainable and quantizer.is_compileable
    loss = model(input_ids=tokens(), labels=tokens()).loss
    loss.backward()
    assert model.model.norm.weight.grad is not None


_WITHOUT_US = """
import sys
sys.modules["higgsx"] = None  # as if it were not installed
import transformers
for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
    try:
        auto.from_pretrained(sys.argv[1])
    except RuntimeError as error:
        print("RuntimeError", str(error)[:60])
    else:
        print("loaded")
"""


def test_without_our_package_the_folder_raises(tmp_path: Path) -> None:
    original = tiny("qwen2", tmp_path / "original")
    saved(original, tmp_path / "saved")
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_US, str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("RuntimeError") for line in lines), done.stdout
    assert "higgsx" in done.stderr  # transformers names the method that it does not know


def edited(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path / "original")
    saved(original, tmp_path / "saved")
    load = transformers.AutoModelForCausalLM.from_pretrained
    tensors = json.loads((tmp_path / "saved/config.json").read_text())["quantization_config"]["tensors"]
    with pytest.raises(ModelError, match="nothing is said about what is compressed"):
        load(edited(tmp_path / "saved", tensors={}))
    name = "model.layers.0.mlp.up_proj.weight"
    wrong = {**tensors, name: {**tensors[name], "shape": [64, 64]}}
    with pytest.raises(ModelError, match="shape differs"):
        load(edited(tmp_path / "saved", tensors=wrong))
    unknown = {**tensors, name: {**tensors[name], "codec": "pickle"}}
    with pytest.raises(FormatError, match=f"{name}: unknown codec"):
        load(edited(tmp_path / "saved", tensors=unknown))
    with pytest.raises(ModelError, match="none of the compressed tensors belongs to this model"):
        load(edited(tmp_path / "saved", tensors={"other.weight": tensors[name]}))
    with pytest.raises(UsageError, match="not a configuration of this version"):
        load(edited(tmp_path / "saved", tensors=tensors, version=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 4, "size": "1MB"}, "one budget"),
        ({"bit": 4}, "unknown option"),
        ({"policy": "wild"}, "unknown policy"),
        ({"allow": ["int7"]}, "unknown code"),
        ({"names": "both"}, "unknown names"),
    ],
)
def test_options_are_checked_when_they_are_given(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HiggsxConfig(**options)  # type: ignore[arg-type]


def test_configuration_goes_through_json() -> None:
    config = HiggsxConfig(bits=4.5, keep=["*.norm*"], modules_to_not_convert=["lm_head"])
    again = HiggsxConfig.from_dict(json.loads(config.to_json_string()))
    assert again.to_dict() == config.to_dict()
    assert again.keep == ["*.norm*", "*lm_head.*"] and again.bits == "4.5"
    assert higgsx.HiggsxConfig is HiggsxConfig
