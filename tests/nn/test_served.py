"""Compressed models of many families compute what their own classes compute with the decoded weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tiny import TINY, build, encode_model, logits, tokens, twin_of
from torch import nn

from arithmetic import Arithmetic
from higgsx.kernels import native, ops
from higgsx.nn.census import census
from higgsx.nn.packed import is_packed
from higgsx.nn.swap import swap


def pair(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """A compressed model and its dense twin."""
    model = build(name, dtype)
    encoded = encode_model(model, census(model, TINY[name].call))
    twin = twin_of(model, encoded)
    swap(model, *encoded)
    return model, twin


@pytest.mark.parametrize("name", TINY)
def test_equal_outputs(name: str, arithmetic: Arithmetic):
    model, twin = pair(name)
    call = TINY[name].call
    with torch.no_grad(), ops.watched() as ran:
        ours, theirs = logits(call(model)), logits(call(twin))
    assert arithmetic.agree(ours, theirs)
    assert torch.isfinite(ours).all() and ours.std() > 0
    assert {kernel for _, kernel in ran} == {arithmetic.kernel}
    # products went to kernels and were not decoded for torch (stacks and left factors are)
    kinds = {op for op, _ in ran}
    assert kinds & {"linear", "matmul"}
    assert ("decode" in kinds) == (name in ("mixtral", "gpt-oss", "mamba"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_equal_outputs_in_bfloat16(name: str, arithmetic: Arithmetic):
    model, twin = pair(name, torch.bfloat16)
    with torch.no_grad():
        assert arithmetic.agree(logits(TINY[name].call(model)), logits(TINY[name].call(twin)))


@pytest.mark.skipif(native.available() is not None, reason="no native kernels")
@pytest.mark.parametrize("name", TINY)
def test_rounded_activations_stay_near(name: str):
    model, twin = pair(name)
    call = TINY[name].call
    with torch.no_grad():
        ours, theirs = logits(call(model)), logits(call(twin))
        with ops.precision("float"):
            exact = logits(call(model))
    error = (ours - theirs).norm() / theirs.norm()
    assert 1e-4 < error < 0.1 and not torch.equal(ours, exact)


@pytest.mark.parametrize("name", [name for name, tiny in TINY.items() if tiny.generates])
def test_generate(name: str, arithmetic: Arithmetic):
    model, twin = pair(name)
    ours, theirs = (m.generate(tokens(m), max_new_tokens=4, do_sample=False) for m in (model, twin))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "bert"])
def test_copies(name: str):
    model, _ = pair(name)
    with torch.no_grad():
        expected = logits(TINY[name].call(model))
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(logits(TINY[name].call(other)), expected)
            owner = next(module for module in other.modules() if is_packed(module))
            original = next(module for module in model.modules() if is_packed(module))
            assert type(owner) is type(original)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_state_dict_round_trip(name: str):
    model, _ = pair(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert {value.dtype for key, value in state.items() if "_hgs" in key} == {torch.uint8}
    other = build(name)
    swap(other, *encode_model(other, census(other, TINY[name].call)))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(state)
        assert torch.equal(logits(TINY[name].call(other)), logits(TINY[name].call(model)))


def test_moving_to_another_dtype_keeps_the_bytes(arithmetic: Arithmetic):
    model, twin = pair("llama")
    before = {name: value.clone() for name, value in model.named_parameters() if value.dtype == torch.uint8}
    for change in (lambda m: m.to(torch.bfloat16), lambda m: m.type(torch.float16), lambda m: m.float()):
        change(model), change(twin)
        assert model.lm_head.weight.dtype == twin.lm_head.weight.dtype
        after = dict(model.named_parameters())
        assert all(torch.equal(after[name], value) for name, value in before.items())
    model, twin = pair("llama")
    with torch.no_grad():
        ours, theirs = (logits(TINY["llama"].call(m.to(torch.bfloat16))) for m in (model, twin))
    assert ours.dtype == torch.bfloat16 and arithmetic.agree(ours, theirs)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_reach_the_input(name: str, arithmetic: Arithmetic):
    model, twin = pair(name)
    grads = []
    for one in (model, twin):
        x = one.get_input_embeddings()(tokens(one)).detach().requires_grad_()
        one(inputs_embeds=x).logits.square().sum().backward()
        grads.append(x.grad)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)
    # what can be trained is trained: biases and norms
    others = dict(twin.named_parameters())
    trained = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    assert trained
    for name, grad in trained.items():
        torch.testing.assert_close(grad, others[name].grad, rtol=1e-4, atol=1e-4)
