"""A transformers model from the tensors of a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import TIED, Tiny, encoded, logits, tiny, tokens

from arithmetic import Arithmetic
from higgsx.codecs.dense import Dense
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.integrations.hf.load import load_model
from higgsx.nn.packed import is_packed
from higgsx.nn.virtual import VirtualWeight


def decoded_twin(
    original: Tiny, weights: dict[str, tuple[Descriptor, dict[str, torch.Tensor]]]
) -> torch.nn.Module:
    """The original class with the decoded values put in by hand."""
    model = original.model
    state = {name: descriptor.decode(arrays) for name, (descriptor, arrays) in weights.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= set(model.all_tied_weights_keys)
    model.tie_weights()
    return model


def test_packed_model_equals_the_same_class_with_decoded_weights(
    any_tiny: Tiny, arithmetic: Arithmetic
) -> None:
    weights = encoded(any_tiny.tensors())
    model = load_model(weights, any_tiny.config)
    packed = [name for name, module in model.named_modules() if is_packed(module)]
    assert len(packed) >= 5 and not model.training
    assert arithmetic.agree(logits(model), logits(decoded_twin(any_tiny, weights)))


def test_expanded_model_equals_the_packed_one(any_tiny: Tiny, arithmetic: Arithmetic) -> None:
    weights = encoded(any_tiny.tensors())
    expanded = load_model(weights, any_tiny.config, packed=False)
    assert not any(is_packed(module) for module in expanded.modules())
    assert arithmetic.agree(logits(expanded), logits(load_model(weights, any_tiny.config)))


def test_arrays_are_used_where_they_lie(any_tiny: Tiny) -> None:
    weights = encoded(any_tiny.tensors())
    parameters = dict(load_model(weights, any_tiny.config).named_parameters(remove_duplicate=False))
    for name, (_, arrays) in weights.items():
        for suffix, array in arrays.items():
            stored = next(parameters[key] for key in parameters if key.endswith(name + suffix))
            assert stored.data_ptr() == array.data_ptr()


@pytest.mark.parametrize("family", sorted(TIED))
def test_tied_weights_stay_one(family: str, tmp_path: Path) -> None:
    original = tiny(family, tmp_path)
    weights = encoded(original.tensors())
    assert "lm_head.weight" not in weights
    model = load_model(weights, original.config)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert table.weight_hgs is head.weight_hgs
    before = logits(model)
    model.tie_weights()  # evaluation harnesses call it again
    assert table.weight_hgs is head.weight_hgs
    assert torch.equal(logits(model), before)


def test_the_other_one_of_two_tied_names_may_be_the_stored_one(tmp_path: Path) -> None:
    original = tiny("qwen2", tmp_path)
    tensors = original.tensors()
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    model = load_model(
        encoded(tensors), original.config, ties=[["lm_head.weight", "model.embed_tokens.weight"]]
    )
    assert model.model.embed_tokens.weight_hgs is model.lm_head.weight_hgs
    assert isinstance(model.model.embed_tokens.weight, VirtualWeight)


def test_a_tie_that_the_configuration_denies_is_refused(tmp_path: Path) -> None:
    original = tiny("qwen2", tmp_path)
    config = {**original.config, "tie_word_embeddings": False}
    with pytest.raises(ModelError, match="lm_head.weight: the file ties a tensor that the model does not"):
        load_model(
            encoded(original.tensors()), config, ties=[["model.embed_tokens.weight", "lm_head.weight"]]
        )


def test_run_dtype_is_that_of_dense_weights_and_of_outputs(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    model = load_model(encoded(original.tensors()), original.config, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16 and model.config.dtype == torch.bfloat16
    assert model.model.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    assert model.model.norm.weight.dtype == torch.bfloat16
    assert logits(model).dtype == torch.bfloat16


def test_missing_weights_are_named(any_tiny: Tiny) -> None:
    weights = encoded(any_tiny.tensors())
    gone = sorted(name for name in weights if name.endswith("weight"))[1]
    del weights[gone]
    with pytest.raises(ModelError, match=f"lacks weights of the model.*{gone}"):
        load_model(weights, any_tiny.config)


def test_tensors_without_a_place_are_named_or_left_out(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    weights = encoded({**original.tensors(), "model.extra.weight": torch.ones(4)})
    with pytest.raises(ModelError, match="no place for some tensors.*model.extra.weight"):
        load_model(weights, original.config)
    assert logits(load_model(weights, original.config, strict=False)).isfinite().all()


def test_tensors_that_a_class_ignores_are_left_out(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    weights = encoded({**original.tensors(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert logits(load_model(weights, original.config)).isfinite().all()


def test_shapes_are_compared_before_anything_is_allocated(tmp_path: Path) -> None:
    original = tiny("llama", tmp_path)
    config = {**original.config, "vocab_size": 1 << 40}
    with pytest.raises(ModelError, match="shapes that the configuration asks for"):
        load_model(encoded(original.tensors()), config)


def test_weights_of_the_base_model_fit_the_model_with_a_head(tmp_path: Path) -> None:
    original = tiny("gpt2", tmp_path)
    weights = encoded(original.tensors())
    # GPT-2's own checkpoint has no prefix
    bare = {name.removeprefix("transformer."): one for name, one in weights.items()}
    assert torch.equal(
        logits(load_model(bare, original.config)), logits(load_model(weights, original.config))
    )


def test_generation_settings_come_along_and_generating_works(any_tiny: Tiny, arithmetic: Arithmetic) -> None:
    weights = encoded(any_tiny.tensors())
    model = load_model(weights, any_tiny.config, generation={"max_new_tokens": 3, "eos_token_id": 95})
    assert model.generation_config.eos_token_id == 95
    expanded = load_model(weights, any_tiny.config, packed=False, generation={"max_new_tokens": 3})
    ids = tokens(1, 4)
    mask = torch.ones_like(ids)
    new = model.generate(ids, attention_mask=mask, do_sample=False)
    assert new.shape == (1, 7)
    assert torch.equal(new, expanded.generate(ids, attention_mask=mask, do_sample=False))


@pytest.mark.parametrize("packed", [True, False])
def test_experts_that_the_model_fuses_come_from_exact_tensors(packed: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.MixtralConfig(
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        vocab_size=96,
        bos_token_id=1,
        eos_token_id=2,
    )
    original = transformers.MixtralForCausalLM(config).eval()
    original.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert any("experts.0.w1" in name for name in tensors)
    weights = encoded({name: tensor for name, tensor in tensors.items() if "experts" not in name})
    weights |= {
        name: (Descriptor("F32", tuple(tensor.shape), "", Dense("F32")), {"": tensor})
        for name, tensor in tensors.items()
        if "experts" in name
    }
    settings = json.loads((tmp_path / "config.json").read_text())
    model = load_model(weights, settings, packed=packed)
    experts = model.model.layers[0].mlp.experts
    assert torch.equal(experts.down_proj, original.model.layers[0].mlp.experts.down_proj)
    assert logits(model).isfinite().all()
    before = logits(model)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), before)
    compressed = encoded(tensors)
    with pytest.raises(ModelError, match="fuses tensors that are compressed apart"):
        load_model(compressed, settings)
