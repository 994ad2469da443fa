"""Row sensitivities against their definition, one structure after the other."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from brute import Everything, Own, silent_parameters
from torch import Tensor, nn
from torch.nn import functional as f

from higgsx.calibration import sensitivity
from higgsx.calibration.sensitivity import sensitivities
from higgsx.errors import DataError, TextError
from higgsx.nn.census import census
from higgsx.tasks import NO_LABEL, LanguageModel

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


class Tied(nn.Module):
    """A table that is also the head, a layer that is used twice, a matrix that stands transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.twice = nn.Linear(6, 6)
        self.io = nn.Parameter(torch.empty(6, 6))
        self.own: Own | None = None

    def forward(self, ids: Tensor) -> Tensor:
        own = self.own
        x = self.table(ids) if own is None else own.look_up("table.weight", ids, self.table.weight)
        x += 1  # in place, as positions are added
        for _ in range(2):
            if own is None:
                x = torch.tanh(self.twice(x))
            else:
                x = torch.tanh(own.linear("twice.weight", x, self.twice.weight) + self.twice.bias)
        x = 1.5 * x
        y = x @ self.io if own is None else own.linear("io", x, self.io.t())
        x = x.mul_(-2) if own is None else -2 * x  # in place, after a product has read it
        x = torch.cumsum(y + x, 0)
        if own is None:
            return x @ self.table.weight.t()
        return own.linear("table.weight", x, self.table.weight)


AXES = {"table.weight": "oi", "twice.weight": "oi", "io": "io"}


def expected(
    model: nn.Module, batches: list[Tensor], outputs: str, seed: int, by: str = "sums"
) -> dict[str, Tensor]:
    """By the definition, with the same draws; by: `sums` over rows or `columns`."""
    generator = torch.Generator().manual_seed(seed)
    towards = sensitivity._towards_labels if outputs == "logits" else sensitivity._towards_signs
    found: dict[str, Tensor] = {}
    for batch in batches:
        model.own = Own()
        out = model(batch)
        out.backward(towards(out.detach(), torch.ones(len(out), dtype=torch.bool), generator))
        for name, rows in getattr(model.own, by)().items():
            found[name] = found.get(name, 0) + rows
    model.own = None
    tokens = sum(len(batch) for batch in batches)
    return {name: rows / tokens for name, rows in found.items()}


@pytest.mark.parametrize("outputs", ["logits", "vectors"])
def test_tied_table_and_layer_used_twice(outputs: str) -> None:
    model = silent_parameters(Tied())
    batches = [IDS, IDS.flip(0)[:5]]
    wanted = expected(model, batches, outputs, 7)
    found = sensitivities(model, Everything(outputs), batches, AXES, seed=7, text="ids")
    assert found.tokens == 13
    assert found.unit == {"logits": "nats per token", "vectors": "relative squared error"}[outputs]
    assert set(found.r) == set(wanted)
    for name, rows in wanted.items():
        torch.testing.assert_close(found.r[name].float(), rows, rtol=1e-4, atol=1e-7)
    for name, columns in expected(model, batches, outputs, 7, "columns").items():
        torch.testing.assert_close(found.columns[name].float(), columns, rtol=1e-4, atol=1e-7)
    assert (found.r["table.weight"] > 0).all()  # as a head every row is used
    torch.testing.assert_close(found.powers["io"].float(), model.io.detach().square().sum(0))


def test_the_model_is_left_as_it_was() -> None:
    model = silent_parameters(Tied()).train()
    model.twice.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sensitivities(model, Everything(), [IDS], AXES)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


class Pictures(nn.Module):
    """Two convolutions with stride, padding and dilation, in one and in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1)
        self.two = nn.Conv1d(4, 5, 3, padding=2, dilation=2)
        self.own: Own | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x) if self.own is None else self._unfolded("one.weight", x, self.one)
        y = torch.tanh(y).flatten(2)
        z = (
            self.two(y)
            if self.own is None
            else self._unfolded("two.weight", y[:, :, None], self.two)[:, :, 0]
        )
        return z.flatten(2).mean(-1)

    def _unfolded(self, name: str, x: Tensor, layer: nn.Module) -> Tensor:
        """The same convolution as a product of patches."""
        assert self.own is not None
        pad = lambda two: (0, *two) if len(two) == 1 else two  # noqa: E731
        size = (1, *layer.kernel_size) if len(layer.kernel_size) == 1 else layer.kernel_size
        stride = (1, *layer.stride) if len(layer.stride) == 1 else layer.stride
        dilation = (1, *layer.dilation) if len(layer.dilation) == 1 else layer.dilation
        patches = f.unfold(x, size, dilation, pad(layer.padding), stride)  # [B, in, L]
        flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
        y = self.own.linear(name, flat, layer.weight.flatten(1)) + layer.bias
        y = y.view(len(x), -1, y.shape[-1]).transpose(1, 2)
        height = (x.shape[2] + 2 * pad(layer.padding)[0] - dilation[0] * (size[0] - 1) - 1) // stride[0] + 1
        return y.reshape(len(x), y.shape[1], height, -1)


def test_convolutions() -> None:
    model = silent_parameters(Pictures())
    batches = [torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(model(batches[0]), _with_own(model, batches[0]))
    wanted = expected(model, batches, "logits", 5)
    found = sensitivities(model, Everything(), batches, {"one.weight": "oikk", "two.weight": "oik"}, seed=5)
    for name, rows in wanted.items():
        torch.testing.assert_close(found.r[name].float(), rows, rtol=1e-4, atol=1e-7)


def _with_own(model: nn.Module, batch: Tensor) -> Tensor:
    model.own = Own()
    out = model(batch).detach()
    model.own = None
    return out


class Experts(nn.Module):
    """Four experts in one stack, reached in the ways that models reach them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.stack = nn.Parameter(torch.empty(4, 6, 5) if way == "eio" else torch.empty(4, 5, 6))
        self.way, self.own = way, None

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.tanh(self.table(ids))
        chosen = ids % 4
        if self.own is not None:
            stack = self.stack.transpose(1, 2) if self.way == "eio" else self.stack
            change = torch.zeros(len(x), 5, 6, requires_grad=True)

            def rows(g: Tensor) -> Tensor:
                found = torch.zeros(4, 5)
                for expert, one in zip(chosen.tolist(), g, strict=True):
                    found[expert] += one.square().sum(1)
                return found.flatten()

            self.own.changes["stack"] = [(change, rows)]
            return torch.einsum("toi,ti->to", stack[chosen] + change, x)
        if self.way == "gathered":
            return torch.bmm(self.stack[chosen], x[:, :, None])[:, :, 0]
        if self.way == "all":
            every = torch.matmul(x[None].expand(4, -1, -1), self.stack.transpose(1, 2))  # [E, T, O]
            return every[chosen, torch.arange(len(x))]
        out = torch.zeros(len(x), 5)
        for expert in range(4):
            mine = (chosen == expert).nonzero()[:, 0]
            if self.way == "eio":
                part = x[mine] @ self.stack[expert]
            elif self.way == "parts":
                # a part of the outputs at a time
                part = torch.cat([f.linear(x[mine], half) for half in self.stack[expert].split([2, 3])], -1)
            else:
                part = f.linear(x[mine], self.stack[expert])
            out = out.index_add(0, mine, part)
        return out


@pytest.mark.parametrize("way", ["one by one", "eio", "parts", "gathered", "all"])
def test_experts(way: str) -> None:
    model = silent_parameters(Experts(way))
    torch.testing.assert_close(model(IDS), _with_own(model, IDS))
    wanted = expected(model, [IDS], "logits", 3)["stack"]
    axes = {"stack": "eio" if way == "eio" else "eoi"}
    found = sensitivities(model, Everything(), [IDS], axes, seed=3)
    torch.testing.assert_close(found.r["stack"].float(), wanted, rtol=1e-4, atol=1e-8)
    columns = expected(model, [IDS], "logits", 3, "columns")["stack"]
    torch.testing.assert_close(found.columns["stack"].float(), columns, rtol=1e-4, atol=1e-8)


_SMALL = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
          "intermediate_size": 64, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
          "eos_token_id": 2}  # fmt: skip
_GPT = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False}  # fmt: skip
FAMILIES = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_SMALL, num_key_value_heads=2)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(
        hf.Gemma2Config(**_SMALL, num_key_value_heads=2, head_dim=8, tie_word_embeddings=False)
    ),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(**_SMALL, ffn_dim=64, word_embed_proj_dim=32, tie_word_embeddings=False)
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**_SMALL, num_key_value_heads=2, num_local_experts=4)
    ),
    "gpt-oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(
            **_SMALL, num_key_value_heads=2, num_local_experts=4, head_dim=8, num_experts_per_tok=2
        )
    ),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_of_one_token_it_is_the_gradient_of_the_weight(family: str) -> None:
    """Where every weight is used once at one position, r is the squared gradient of its row."""
    model = silent_parameters(FAMILIES[family]())
    found_weights = census(model, lambda one: one(input_ids=torch.tensor([[3, 4, 5]]))).weights
    axes = {weight.name: weight.axes for weight in found_weights}
    windows = [torch.tensor([[token]]) for token in (3, 9, 4)]
    found = sensitivities(model, Everything(), windows, axes, seed=11)
    generator = torch.Generator().manual_seed(11)
    wanted, columns = dict.fromkeys(axes, 0.0), dict.fromkeys(axes, 0.0)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for window in windows:
        model.zero_grad()
        out = Everything().call(model, window)
        counts = torch.ones(1, dtype=torch.bool)
        out.backward(sensitivity._towards_labels(out.detach(), counts, generator))
        for name, letters in axes.items():
            wanted[name] = wanted[name] + sensitivity._row_powers(parameters[name].grad, letters) / 3
            power = parameters[name].grad.double().square().movedim(letters.index("i"), -1) / 3
            columns[name] = columns[name] + power.flatten(0, -2).sum(0)
    assert len(axes) > 10
    for name, rows in wanted.items():
        # products in other orders: equal to rounding, against the largest row
        torch.testing.assert_close(found.r[name], rows, rtol=2e-3, atol=2e-4 * float(rows.max()) + 1e-12)
    for name, of_inputs in found.columns.items():
        largest = float(columns[name].max())
        torch.testing.assert_close(of_inputs, columns[name], rtol=2e-3, atol=2e-4 * largest + 1e-12)
        assert abs(float(of_inputs.sum() - found.r[name].sum())) <= 1e-3 * float(found.r[name].sum()) + 1e-9
    assert set(found.columns) == set(axes)
    assert sum(float(rows.sum()) for rows in found.r.values()) > 0


def test_head_in_pieces_is_the_head_whole() -> None:
    model = silent_parameters(FAMILIES["llama"]())
    axes = {w.name: w.axes for w in census(model, lambda one: one(input_ids=torch.tensor([[3, 4]]))).weights}
    ids = torch.randint(0, 48, (1, 30), generator=torch.Generator().manual_seed(0))
    call = lambda one, window: one(input_ids=window, use_cache=False).logits  # noqa: E731
    whole = sensitivities(model, LanguageModel(call), [ids], axes, seed=2)
    pieces = sensitivities(
        model, LanguageModel(call, lambda one: one.get_output_embeddings()), [ids], axes, seed=2
    )
    assert whole.tokens == pieces.tokens == 29
    for name, rows in whole.r.items():
        torch.testing.assert_close(rows, pieces.r[name], rtol=1e-3, atol=1e-5 * float(rows.max()))


def test_labels_are_drawn_from_the_model() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -30.0]]).expand(40_000, 4)
    counts = torch.ones(len(logits), dtype=torch.bool)
    counts[:5] = False
    gradient = sensitivity._towards_labels(logits, counts, torch.Generator().manual_seed(0))
    p = logits[0].softmax(0)
    drawn = gradient[5:] + p
    assert ((drawn - drawn.round()).abs() < 1e-6).all()  # one label each
    assert (drawn.round().sum(1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), p, rtol=0, atol=0.01)
    assert not gradient[:5].any()


def test_repeats_exactly() -> None:
    model = silent_parameters(Tied())
    one, other = (sensitivities(model, Everything(), [IDS], AXES) for _ in range(2))
    assert all(torch.equal(one.r[name], other.r[name]) for name in one.r)
    third = sensitivities(model, Everything(), [IDS], AXES, seed=1)
    assert any(not torch.equal(one.r[name], third.r[name]) for name in one.r)


class Nothing(Everything):
    def labels(self, batch: Tensor) -> Tensor:
        return torch.full((batch.numel(),), NO_LABEL)


def test_nothing_to_learn_from() -> None:
    model = silent_parameters(Tied())
    with pytest.raises(TextError, match="nothing to learn from"):
        sensitivities(model, Nothing(), [IDS], AXES)
    with torch.no_grad():
        model.io[0, 0] = float("nan")
    with pytest.raises(DataError, match="not a finite number"):
        sensitivities(model, Everything(), [IDS], AXES)
