"""Adapters of peft work on compressed models as they are."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from test_served import pair
from tiny import logits, tokens
from torch import nn

from arithmetic import Arithmetic
from higgsx.nn.packed import is_packed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from peft import LoraConfig, get_peft_model


def with_adapter(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    with warnings.catch_warnings():
        # peft sets the direction of GPT-2's layers itself and says so
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


def step(model: nn.Module) -> list[torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    ids = tokens(model)
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    grads = [parameter.grad.clone() for parameter in trained]
    optimizer.step()
    model.eval()
    return grads


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_one_training_step_equals_that_of_the_dense_twin(name: str, arithmetic: Arithmetic):
    model, twin = pair(name)
    for one in (model, twin):
        for module in one.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    every = model.named_parameters(remove_duplicate=False)
    before = {key: value.clone() for key, value in every if value.dtype == torch.uint8}
    ours, theirs = with_adapter(model), with_adapter(twin)
    assert sum(is_packed(module) for module in ours.modules()) == len(
        {key.rpartition(".")[0] for key in before}
    )
    with torch.no_grad():
        start = logits(ours(input_ids=tokens(ours)))
        assert arithmetic.agree(start, logits(theirs(input_ids=tokens(theirs))))
    for mine, other in zip(step(ours), step(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not torch.equal(logits(ours(input_ids=tokens(ours))), start)
    names = dict(model.named_parameters())
    assert all(torch.equal(names[key], value) for key, value in before.items() if key in names)


def test_merging_leaves_dense_layers_with_the_merged_values(arithmetic: Arithmetic):
    model, _ = pair("llama")
    adapted = with_adapter(model)
    ids = tokens(model)
    with torch.no_grad():
        expected = logits(adapted(input_ids=ids))
        merged = copy.deepcopy(adapted).merge_and_unload()
        got = logits(merged(input_ids=ids))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    layer = merged.model.layers[0].self_attn.q_proj
    assert type(layer) is nn.Linear and not is_packed(layer)
    assert is_packed(merged.model.embed_tokens)
