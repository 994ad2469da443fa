"""How a language model is called, and that its logits in pieces are its logits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from higgsx.errors import ModelError
from higgsx.tasks import NO_LABEL, LanguageModel


class Tiny(nn.Module):
    """Embedding, head, and perhaps something after the head. Counts the rows that its body sees."""

    def __init__(self, after=None):
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.top = nn.Linear(16, 50, bias=False)
        self.after = after
        self.body_calls = 0
        self.head_rows = []
        self.top.register_forward_hook(lambda module, args, out: self.head_rows.append(out.shape[1]))

    def forward(self, ids):
        self.body_calls += 1
        logits = self.top(torch.cumsum(self.table(ids), dim=1))
        return SimpleNamespace(logits=logits if self.after is None else self.after(logits))


@pytest.fixture
def window():
    return torch.randint(0, 50, (1, 23), generator=torch.Generator().manual_seed(1))


def build(after=None):
    torch.manual_seed(2)
    return Tiny(after)


def test_labels_are_the_next_tokens_and_the_last_position_has_none(window):
    labels = LanguageModel().labels(window)
    assert labels.tolist() == [*window[0, 1:].tolist(), NO_LABEL]


def test_call_takes_tensors_and_objects_with_logits(window):
    model = build()
    by_object = LanguageModel().call(model, window)
    by_tensor = LanguageModel().call(lambda ids: model(ids).logits, window)
    assert by_object.shape == (23, 50)
    assert torch.equal(by_object, by_tensor)


def test_logits_of_the_wrong_shape_are_refused(window):
    with pytest.raises(ModelError, match="wrong shape"):
        LanguageModel().call(lambda ids: torch.zeros(23, 50), window)


@pytest.mark.parametrize("positions", [1, 7, 23, 100])
@pytest.mark.parametrize("head", [None, lambda model: model.top])
def test_pieces_are_the_whole(window, positions, head):
    model = build()
    pieces = list(LanguageModel(head=head).pieces(model, window, positions))
    assert all(len(piece) == positions for piece in pieces[:-1])
    assert torch.allclose(torch.cat(pieces), LanguageModel().call(model, window), atol=1e-5)


def test_with_a_head_the_body_runs_once_and_the_head_never_whole(window):
    model = build()
    list(LanguageModel(head=lambda m: m.top).pieces(model, window, 5))
    assert model.body_calls == 1
    assert model.head_rows == [1, 5, 5, 5, 5, 3]
    model(window)
    assert model.head_rows[-1] == 23, "the hooks must be gone"


def test_a_model_that_caps_its_logits_is_called_whole(window):
    model = build(after=lambda logits: torch.tanh(logits / 3) * 3)
    task = LanguageModel(head=lambda m: m.top)
    expected = LanguageModel().call(model, window)
    for _ in range(2):
        assert torch.equal(torch.cat(list(task.pieces(model, window, 5))), expected)
    # once to try the head and once whole, then whole at once
    assert model.body_calls == 4


def test_hooks_are_gone_after_an_error(window):
    model = build(after=lambda logits: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(LanguageModel(head=lambda m: m.top).pieces(model, window, 5))
    model.after = None
    assert model(window).logits.shape == (1, 23, 50)
