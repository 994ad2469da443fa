"""`attn_implementation="higgsx"`: what transformers' own attention computes, encoder and decoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import encoded, logits, tiny, tokens

from higgsx.errors import ModelError
from higgsx.integrations.hf import attention
from higgsx.integrations.hf.load import load_model
from higgsx.kernels import native
from higgsx.kernels.precision import precision

pytestmark = pytest.mark.skipif(
    native.available() is not None, reason=f"no native kernels: {native.available()}"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of ours was causal."""
    return watched(monkeypatch, "causal")


def watched(monkeypatch: pytest.MonkeyPatch, what: str) -> list[bool]:
    """An argument of each call of ours, from here on."""
    seen: list[bool] = []
    plain = attention.attention

    def counted(q, k, v, scale, causal, rounds):
        seen.append({"causal": causal, "rounds": rounds}[what])
        return plain(q, k, v, scale, causal, rounds)

    monkeypatch.setattr(attention, "attention", counted)
    return seen


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "opt"])
def test_a_decoder(family: str, tmp_path: Path, calls: list[bool]) -> None:
    original = tiny(family, tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config, packed=False)
    ids = tokens(2, 9)
    mask = torch.ones_like(ids)
    padded = mask.clone()
    padded[0, :3] = 0
    with torch.no_grad():
        expected = [model(ids).logits, model(ids, attention_mask=padded).logits]
        text = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=4)
        assert calls == []
        model.set_attn_implementation("higgsx")
        torch.testing.assert_close(model(ids).logits, expected[0], rtol=1e-5, atol=1e-5)
        assert calls == [True, True]
        torch.testing.assert_close(
            model(ids, attention_mask=padded).logits, expected[1], rtol=1e-5, atol=1e-5
        )
        assert len(calls) == 2  # a mask is left to transformers
        assert torch.equal(model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=4), text)
    assert calls[2:4] == [True, True] and not any(calls[4:]) and len(calls) == 2 + 2 * 4


def test_an_encoder_and_its_decoder(calls: list[bool]) -> None:
    attention.register()
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=64, max_source_positions=10, num_mel_bins=8,
        max_target_positions=12, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config).eval()
    sound, ids = torch.randn(2, 8, 20), torch.tensor([[3, 4, 5], [6, 7, 8]])
    with torch.no_grad():
        expected = model(input_features=sound, decoder_input_ids=ids).logits
        model.set_attn_implementation("higgsx")
        got = model(input_features=sound, decoder_input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert sorted(calls) == [False] * 4 + [True] * 2


def test_named_while_loading_a_folder(tmp_path: Path, calls: list[bool]) -> None:
    original = tiny("llama", tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="higgsx"
    )
    with precision("float"):
        torch.testing.assert_close(logits(again), logits(model), rtol=1e-3, atol=1e-3)
    assert calls == [True, True]
    # gradients go through transformers' attention
    again.train()
    again(input_ids=tokens()).logits.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_rounds_between_packed_weights_alone(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tiny("llama", tmp_path / "original")
    model = load_model(encoded(original.tensors()), original.config, packed=packed)
    model.set_attn_implementation("higgsx")
    seen = watched(monkeypatch, "rounds")
    with torch.no_grad():
        model(tokens(1, 5))
    assert seen == [packed, packed]


def test_sinks_are_refused() -> None:
    x = torch.randn(1, 2, 3, 16)
    with pytest.raises(ModelError, match="attention sinks"):
        attention.attend(torch.nn.Module(), x, x, x, None, s_aux=torch.ones(2))
