"""Every family computes what transformers computes with the same file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from zoo import VOCABULARY, ZOO, distance, ids_of, random_folder, through_transformers

import higgsx
from folders import tensors_of, write_tensors
from higgsx.archive import Archive
from higgsx.errors import ModelError
from higgsx.runtime.engine import Engine
from higgsx.runtime.families import FAMILIES
from higgsx.runtime.resolve import design_of

Get = Callable[[str], Path]
TRAINED = Path(__file__).parents[3] / "shared" / "models"


@pytest.mark.usefixtures("library")
def test_logits(name: str, zoo_hgs: Get) -> None:
    ids = ids_of()
    with Archive.open(zoo_hgs(name)) as archive:
        engine = Engine(archive, precision="float", cache="f32")
        found = engine.logits(ids)
    wanted = through_transformers(zoo_hgs(name), ids)
    assert distance(found, wanted) < 1e-4


@pytest.mark.usefixtures("library")
def test_rounded_activations_stay_near(name: str, zoo_hgs: Get) -> None:
    with Archive.open(zoo_hgs(name)) as archive:
        near = Engine(archive).logits(ids_of())
        exact = Engine(archive, precision="float", cache="f32").logits(ids_of())
    assert 0 < distance(near, exact) < 0.1


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("model", "learned"),
    [
        *((name, {}) for name in ("llama-en-5m", "llama-ru-5m", "gpt2-en-5m", "opt-en-5m", "stories260k")),
        *((name, {"gradients": True, "calibration_tokens": 256}) for name in ("gpt2-en-5m", "stories260k")),
    ],
)
def test_trained_models(model: str, learned: dict[str, Any], tmp_path: Path) -> None:
    """With gradients channels have scales, which readers of one activation share."""
    folder = TRAINED / model
    if not folder.is_dir():
        pytest.skip("the trained models are not here")
    path = tmp_path / "m.hgs"
    higgsx.compress(folder, path, bits=4.5, allow=("gauss16", "gauss8", "int8"), check=False, **learned)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Once upon a time there was a little girl, and she had a dog.")["input_ids"]
    with Archive.open(path) as archive:
        transforms = [one.descriptor.transform for one in archive.tensors.values()]
        assert any(transform and transform.scales for transform in transforms) == bool(learned)
        found = Engine(archive, precision="float", cache="f32").logits(ids)
        near = Engine(archive).logits(ids)
    wanted = through_transformers(path, ids)
    assert distance(found, wanted) < 1e-4
    assert (near.argmax(-1) == wanted.argmax(-1)).mean() > 0.9


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "neox"])
def test_exact_tensors(name: str, tmp_path: Path) -> None:
    """Nothing is compressed: matrices in bfloat16, some of them transposed."""
    folder = random_folder(name, tmp_path / "model")
    path = tmp_path / "m.hgs"
    higgsx.compress(folder, path, bits=16, keep=("*",), check=False)
    with Archive.open(path) as archive:
        found = Engine(archive, precision="float", cache="f32").logits(ids_of())
        rounded = Engine(archive, precision="int8", cache="f32").logits(ids_of())
    assert distance(found, through_transformers(path, ids_of())) < 1e-5
    np.testing.assert_array_equal(found, rounded)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("name", "base"), [("gpt2", "transformer."), ("opt", "model.")])
def test_checkpoints_that_leave_out_the_base(name: str, base: str, tmp_path: Path) -> None:
    folder = random_folder(name, tmp_path / "model")
    higgsx.compress(folder, tmp_path / "a.hgs", bits=16, check=False)
    write_tensors(folder, {key.removeprefix(base): value for key, value in tensors_of(folder).items()})
    higgsx.compress(folder, tmp_path / "b.hgs", bits=16, check=False)
    with Archive.open(tmp_path / "a.hgs") as a, Archive.open(tmp_path / "b.hgs") as b:
        np.testing.assert_array_equal(Engine(a).logits(ids_of()), Engine(b).logits(ids_of()))


def test_the_zoo_has_every_family() -> None:
    assert {variant["model_type"] for variant in ZOO.values()} == {family.model_type for family in FAMILIES}


def config_of(name: str) -> dict[str, Any]:
    settings = {**ZOO[name], "vocab_size": VOCABULARY}
    return json.loads(transformers.AutoConfig.for_model(**settings).to_json_string(use_diff=False))


def test_configurations_that_transformers_writes_are_understood(name: str) -> None:
    design = design_of(config_of(name))
    assert len(design.layers) == 3
    assert design.head_dim * design.heads == design.queries


OLD: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "llama": ("llama", {"rope_theta": 20000.0, "rope_scaling": None}, {"rope_theta": 20000.0}),
    "linear": (
        "llama",
        {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    ),
    "neox": (
        "neox",
        {"rotary_pct": 0.5, "rotary_emb_base": 10000},
        {"rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "phi": ("phi", {"partial_rotary_factor": 0.25}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}),
}


@pytest.mark.parametrize("case", sorted(OLD))
def test_older_words_for_rotary_positions(case: str) -> None:
    name, old, new = OLD[case]
    config = config_of(name)
    config.pop("rope_parameters")
    assert design_of({**config, **old}) == design_of({**config, "rope_parameters": new})


def test_older_words_for_layers_with_windows() -> None:
    config = config_of("gemma3")
    config.pop("rope_parameters")
    config.pop("layer_types")
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 2}
    layers = design_of({**config, **old}).layers
    assert [layer.attention.window for layer in layers] == [4, 0, 4]
    assert layers[0].attention.rope == layers[2].attention.rope != layers[1].attention.rope


CHANGES: list[tuple[str, dict[str, object], str]] = [
    ("llama", {"model_type": "llava"}, "model_type"),
    ("llama", {"model_type": ["llama"]}, "model_type"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ("llama", {"something_new": 3}, "something_new"),
    ("llama", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ("llama", {"hidden_size": 10**12}, "hidden_size"),
    ("llama", {"hidden_size": -64}, "hidden_size"),
    ("llama", {"hidden_size": True}, "hidden_size"),
    ("llama", {"hidden_size": "64"}, "hidden_size"),
    ("llama", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ("llama", {"rms_norm_eps": None}, "rms_norm_eps"),
    ("llama", {"hidden_act": "mish"}, "hidden_act"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_parameters"),
    ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters"),
    ("llama", {"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}, "mrope_section"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary"),
    ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters"),
    ("llama", {"rope_parameters": [1]}, "rope_parameters"),
    ("phi3", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3", {"layer_types": ["full_attention"]}, "layer_types"),
    ("gemma3", {"layer_types": ["full_attention", "other", "full_attention"]}, "layer_types"),
    ("mistral-wide", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "layer_types"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
    ("gptj", {"rotary_dim": 7}, "rotary_dim"),
    ("gptj", {"rotary_dim": None}, "rotary_dim"),
    ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
    ("neox", {"attention_bias": False}, "attention_bias"),
]


@pytest.mark.parametrize(("name", "change", "word"), CHANGES, ids=lambda value: str(value)[:40])
def test_what_is_not_understood_is_refused(name: str, change: dict[str, object], word: str) -> None:
    config = copy.deepcopy(config_of(name))
    assert design_of(config)
    with pytest.raises(ModelError, match=word) as caught:
        design_of({**config, **change})
    assert caught.value.code == "FAMILY"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [[], {}, "x", -1, 0, 1e300, True, None, [[[]]], {"a": {}}])
def test_no_value_of_a_key_does_more_than_be_refused(name: str, value: object) -> None:
    config = config_of(name)
    for key in config:
        try:
            design_of({**config, key: value})
        except ModelError as error:
            assert error.code == "FAMILY"
