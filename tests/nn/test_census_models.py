"""The census on families of transformers: no code of ours knows any of them."""

from __future__ import annotations

import pytest
from tiny import TINY, census_of

from higgsx.nn.census import Census, Weight

FOUND: dict[str, Census] = {}


def found(name: str) -> Census:
    if name not in FOUND:
        FOUND[name] = census_of(name)
    return FOUND[name]


def weight(name: str, end: str) -> Weight:
    (one,) = [w for w in found(name).weights if any(n.endswith(end) for n in w.names)]
    return one


def readers(name: str, end: str) -> set[str]:
    """Last parts of the names of all weights that read the same activation."""
    space = weight(name, end).space
    return {w.name.split(".")[-2] for w in found(name).weights if w.space == space}


@pytest.mark.parametrize("name", TINY)
def test_every_matrix_is_accounted_for_once(name: str):
    model = TINY[name].build()
    every = {n for n, p in model.named_parameters(remove_duplicate=False) if p.dim() >= 2}
    names = [n for w in found(name).weights for n in w.names] + [n for n, _ in found(name).rest]
    assert sorted(names) == sorted(every)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    assert all(shapes[w.name] == w.shape for w in found(name).weights)
    assert [w.order for w in found(name).weights] == list(range(len(found(name).weights)))
    assert all(w.space in {v.name for v in found(name).weights} for w in found(name).weights)


@pytest.mark.parametrize("name", TINY)
def test_tables_and_heads(name: str):
    heads = {w.name for w in found(name).weights if "head" in w.roles}
    tables = {w.name for w in found(name).weights if "embedding" in w.roles}
    one_head = name not in ("bert encoder",)
    assert len(heads) == one_head
    tied = {"qwen2", "gemma2", "falcon", "gpt2", "opt", "bert", "bart", "t5", "whisper", "mamba"}
    assert bool(heads & tables) == (name in tied)
    assert bool(tables) == (name != "vit")
    for one in found(name).weights:
        assert one.space == one.name or "embedding" not in one.roles


def test_exceptions_are_these_and_no_others():
    rest = {name: sorted({n.split(".")[-1] for n, _ in found(name).rest}) for name in TINY}
    assert {name: names for name, names in rest.items() if names} == {
        "gpt-oss": ["down_proj_bias", "gate_up_proj_bias"],
        "mamba": ["A_log", "weight"],
        "vit": ["cls_token", "position_embeddings"],
        "whisper": ["weight"],
    }


def test_axes():
    kinds = {name: {w.axes for w in found(name).weights} for name in TINY}
    assert kinds.pop("gpt2") == {"oi", "io"}
    assert kinds.pop("mixtral") == {"oi", "eoi"}
    assert kinds.pop("gpt-oss") == {"oi", "eio"}
    assert kinds.pop("whisper") == {"oi", "oik"}
    assert kinds.pop("vit") == {"oi", "oikk"}
    assert set(map(frozenset, kinds.values())) == {frozenset({"oi"})}


def test_spaces():
    for name in ("llama", "qwen2", "gemma2", "mixtral", "gpt-oss"):
        assert readers(name, "0.self_attn.v_proj.weight") == {"q_proj", "k_proj", "v_proj"}
    for name in ("llama", "qwen2", "gemma2"):
        assert readers(name, "0.mlp.up_proj.weight") == {"gate_proj", "up_proj"}
    # layers that run beside the attention read the same
    assert readers("gptj", "0.mlp.fc_in.weight") == {"q_proj", "k_proj", "v_proj", "fc_in"}
    assert readers("falcon", "0.mlp.dense_h_to_4h.weight") == {"query_key_value", "dense_h_to_4h"}
    # every layer of a decoder reads what the encoder said
    layers = [f"decoder.layers.{i}.encoder_attn.{part}_proj.weight" for i in range(2) for part in "kv"]
    for name in ("bart", "whisper"):
        assert len({weight(name, end).space for end in layers}) == 1
        assert weight(name, "decoder.layers.0.encoder_attn.q_proj.weight").space not in layers


def test_order_follows_the_run():
    names = [w.name for w in found("llama").weights]
    assert names[0] == "model.embed_tokens.weight" and names[-1] == "lm_head.weight"
    assert names.index("model.layers.0.mlp.down_proj.weight") < names.index(
        "model.layers.1.self_attn.q_proj.weight"
    )
    # tied copies: the one that runs first gives the name
    assert found("bart").weights[0].name == "model.encoder.embed_tokens.weight"
    assert "lm_head.weight" in found("bart").weights[0].names
