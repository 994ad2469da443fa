"""Compressing while transformers loads."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import TIED, Tiny, described, encoded, logits, tiny

import higgsx
from higgsx.errors import BudgetError, HiggsxError, UsageError
from higgsx.integrations.hf.config import HiggsxConfig
from higgsx.integrations.hf.load import load_model
from higgsx.nn.packed import is_packed


def by_hand(original: Tiny) -> HiggsxConfig:
    """What the helpers choose for every matrix, as a person would give it."""
    tensors = {
        name: described(name, parameter).to_json()
        for name, parameter in original.model.named_parameters()
        if parameter.dim() == 2
    }
    return HiggsxConfig(tensors=tensors)


def compressed(original: Tiny, config: HiggsxConfig, **more: object) -> transformers.PreTrainedModel:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        original.folder, quantization_config=config, output_loading_info=True, **more
    )
    assert not any(info.values()), info
    return model


def test_weights_are_encoded_as_a_file_would_hold_them(any_tiny: Tiny) -> None:
    model = compressed(any_tiny, by_hand(any_tiny))
    expected = load_model(encoded(any_tiny.tensors()), any_tiny.config)
    theirs = dict(expected.named_parameters())
    assert {name for name, _ in model.named_parameters()} == set(theirs)
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in model.named_parameters())
    assert torch.equal(logits(model), logits(expected))


def test_saved_and_loaded_again_it_is_the_same(any_tiny: Tiny, tmp_path: Path) -> None:
    model = compressed(any_tiny, by_hand(any_tiny))
    model.save_pretrained(tmp_path / "saved")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", output_loading_info=True
    )
    assert not any(info.values())
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", sorted(TIED))
def test_tied_weights_are_encoded_once(family: str, tmp_path: Path) -> None:
    original = tiny(family, tmp_path)
    model = compressed(original, by_hand(original))
    assert model.get_input_embeddings().weight_hgs is model.get_output_embeddings().weight_hgs
    model.tie_weights()
    assert model.get_input_embeddings().weight_hgs is model.get_output_embeddings().weight_hgs


def test_both_names_of_a_tied_weight_in_the_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    original = tiny("qwen2", tmp_path)
    tensors = original.tensors()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = compressed(original, by_hand(original))
    assert model.get_input_embeddings().weight_hgs is model.get_output_embeddings().weight_hgs


def test_another_run_dtype_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    original = tiny("llama", tmp_path)
    with caplog.at_level(logging.WARNING, "higgsx"):
        compressed(original, by_hand(original))
        assert caplog.records == []
        model = compressed(original, by_hand(original), dtype=torch.bfloat16)
    assert "weights are cast to bfloat16 before they are compressed" in caplog.text
    assert logits(model).dtype == torch.bfloat16


def test_a_plan_is_made_from_the_options(any_tiny: Tiny, tmp_path: Path) -> None:
    model = compressed(any_tiny, HiggsxConfig(bits=22, keep=["*.1.*"], allow=["int4", "gauss16"]))
    tensors = model.config.quantization_config.tensors
    assert tensors and not any(".1." in name for name in tensors)
    assert any(is_packed(module) for module in model.modules())
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))


def test_a_budget_that_nothing_fits_is_refused(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    with pytest.raises(BudgetError):
        compressed(original, HiggsxConfig(bits=0.5))


def test_a_compressed_folder_is_not_compressed_again(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path / "original")
    compressed(original, by_hand(original)).save_pretrained(tmp_path / "saved")
    with pytest.warns(UserWarning, match="quantization_config"):
        again = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / "saved", quantization_config=HiggsxConfig(bits=2)
        )
    assert again.config.quantization_config.bits == "4.25"


def test_without_files_there_is_nothing_to_plan_from(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    config = transformers.LlamaConfig.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no files to compress"):
        transformers.LlamaForCausalLM.from_pretrained(
            None, config=config, state_dict=original.tensors(), quantization_config=HiggsxConfig()
        )
    assert issubclass(UsageError, HiggsxError)


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_it_is_what_a_file_made_with_the_same_options_holds(family: str, tmp_path: Path) -> None:
    original = tiny(family, tmp_path / "original", torch.bfloat16)
    model = compressed(original, HiggsxConfig(bits=6))
    higgsx.compress(original.folder, tmp_path / "model.hgs", bits=6, check=False)
    loaded, _ = higgsx.load(tmp_path / "model.hgs", packed=True)
    theirs = dict(loaded.named_parameters())
    ours = dict(model.named_parameters())
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.config.quantization_config.tensors == loaded.config.quantization_config.tensors
