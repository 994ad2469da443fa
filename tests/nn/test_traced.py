"""Compressed models under `torch.compile`: one graph, the same numbers, the same kernels as outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from test_served import pair
from tiny import TINY, logits, tokens
from torch import nn

from arithmetic import Arithmetic
from higgsx.kernels import ops

FAMILIES = ("llama", "gemma2", "gpt2", "falcon", "opt", "bert encoder", "vit")
"""Linear layers, tied heads, scaled tables, `addmm` with inputs first, a transposed weight, an embedding with
an offset of its own, convolution in two dimensions."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module, backend: str = "aot_eager", dynamic: bool | None = None) -> nn.Module:
    return torch.compile(model, fullgraph=True, backend=backend, dynamic=dynamic)  # type: ignore[return-value]


def both(model: nn.Module, graph: nn.Module, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs outside and inside; asserts that the same products ran."""
    call = TINY[name].call
    with torch.no_grad():
        call(graph)
        with ops.watched() as outside:
            expected = logits(call(model))
        with ops.watched() as inside:
            got = logits(call(graph))
    assert Counter(inside) == Counter(outside) and "decode" not in dict(inside)
    return expected, got


@pytest.mark.parametrize("name", FAMILIES)
def test_one_graph_with_the_products_of_outside(name: str, arithmetic: Arithmetic):
    model, _ = pair(name)
    expected, got = both(model, compiled(model), name)
    assert torch.equal(expected, got)


def test_encoder_of_speech(arithmetic: Arithmetic):
    whole, _ = pair("whisper")
    model = whole.get_encoder()
    features = torch.linspace(-1, 1, 8 * 20).view(1, 8, 20)
    graph = compiled(model)
    with torch.no_grad():
        expected = model(features).last_hidden_state
        graph(features)
        with ops.watched() as ran:
            got = graph(features).last_hidden_state
    assert torch.equal(expected, got)
    assert dict(Counter(op for op, _ in ran)) == {"conv": 2, "embedding": 1, "linear": 12}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_by_the_compiler_that_makes_machine_code():
    """A part of a model: every graph takes seconds to build."""
    model, _ = pair("gpt2")
    part = model.transformer.h[0].mlp
    x = torch.linspace(-1, 1, 96).view(1, 3, 32)
    with torch.no_grad(), ops.precision("float"):
        got, expected = compiled(part, "inductor")(x), part(x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_another_number_of_tokens_is_the_same_graph(name: str):
    model, _ = pair(name)
    graph = compiled(model)
    with torch.no_grad():
        for length in (4, 7, 12):
            ids = tokens(model, length)
            torch._dynamo.mark_dynamic(ids, 1)
            with torch._dynamo.config.patch(error_on_recompile=length > 4):
                got = graph(input_ids=ids, use_cache=False).logits
            expected = model(input_ids=ids, use_cache=False).logits
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_inside_a_graph(name: str, arithmetic: Arithmetic):
    model, _ = pair(name)
    embedded = model.get_input_embeddings()(tokens(model)).detach()
    grads = []
    for one in (model, compiled(model)):
        x = embedded.clone().requires_grad_()
        one(inputs_embeds=x, use_cache=False).logits.square().sum().backward()
        grads.append(x.grad)
    assert grads[0].abs().max() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


def test_other_uses_of_a_weight_see_its_values():
    """What no product serves is computed from the decoded weight, as outside."""
    model, twin = pair("llama")

    class Reader(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.head = model.lm_head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.head.weight
            scaled = torch.nn.functional.linear(
                x.to(weight.dtype), torch.cat([weight, weight])[: len(weight)] * 2
            )
            return scaled + weight.norm() + weight.shape[0] + (weight.t() @ weight).sum()

    x = torch.linspace(-1, 1, 64).view(2, 32)
    with torch.no_grad():
        got, expected = compiled(Reader(model))(x), Reader(twin)(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)
