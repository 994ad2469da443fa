"""Two models over the same windows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from higgsx.errors import ModelError, TextError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.divergence import Divergence
from higgsx.fidelity.report import Arithmetic
from higgsx.tasks import LanguageModel

MODES = Arithmetic("weights fp32, arithmetic fp32", "weights 4 bits, arithmetic fp32", "arithmetic bf16")


class Tiny(nn.Module):
    def __init__(self, noise=0.0):
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(60, 24)
        self.drop = nn.Dropout(0.5)
        self.top = nn.Linear(24, 60)
        with torch.no_grad():
            self.top.weight += noise * torch.randn_like(self.top.weight)

    def forward(self, ids):
        return self.top(self.drop(torch.cumsum(self.table(ids), dim=1)))


def texts(count, length=21, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 60, (1, length), generator=generator) for _ in range(count)]


def measure(original, compressed, windows, **more):
    return compare(original, compressed, windows, arithmetic=MODES, text="test", **more)


@pytest.mark.parametrize("head", [None, lambda model: model.top])
def test_equal_models_lose_nothing_even_in_training_mode(head):
    original, compressed = Tiny().train(), Tiny().train()
    damage = measure(original, compressed, texts(3), task=LanguageModel(head=head))
    assert damage.total.kl.largest == 0.0 and damage.total.top1.value == 1.0
    assert damage.total.tokens == 3 * 20 and damage.total.windows == 3 and damage.longest == 21
    assert original.drop.training and compressed.training, "the mode must come back"


@pytest.mark.parametrize("head", [None, lambda model: model.top])
def test_figures_are_those_of_the_logits(head):
    original, compressed = Tiny().eval(), Tiny(0.1).eval()
    windows = texts(2, 300)
    expected = Divergence()
    with torch.no_grad():
        for window in windows:
            expected.begin_window()
            expected.add(original(window)[0, :-1], compressed(window)[0, :-1], window[0, 1:])
    damage = measure(original, compressed, windows, task=LanguageModel(head=head))
    assert damage.total.kl.mean.value == pytest.approx(expected.figures().kl.mean.value, rel=1e-4)
    assert damage.total.compressed.value == pytest.approx(expected.figures().compressed.value, rel=1e-5)
    assert damage.total.kl.mean.value > 1e-3


def test_domains_have_their_own_figures_and_make_up_the_total():
    original, compressed = Tiny(), Tiny(0.1)
    domains = {"English": texts(2), "code": texts(3, 31, seed=1)}
    damage = measure(original, compressed, domains)
    assert list(damage.domains) == ["English", "code"]
    for name, windows in domains.items():
        assert damage.domains[name].kl == measure(original, compressed, windows).total.kl
    assert damage.total.tokens == 2 * 20 + 3 * 30 and damage.longest == 31
    assert damage.total.kl == measure(original, compressed, sum(domains.values(), [])).total.kl


def test_noise_floor_is_the_original_against_itself_in_another_arithmetic():
    original, compressed, floor = Tiny(), Tiny(0.1), Tiny().bfloat16()
    damage = measure(original, compressed, texts(3), floor=floor)
    assert damage.floor is not None
    assert damage.floor == measure(original, floor, texts(3)).total
    assert 0 < damage.floor.kl.mean.value < damage.total.kl.mean.value
    assert damage.total == measure(original, compressed, texts(3)).total


def test_progress_counts_windows():
    seen = []
    measure(
        Tiny(),
        Tiny(),
        {"a": texts(2), "b": texts(1)},
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_no_windows_is_an_error():
    with pytest.raises(TextError, match="no text"):
        measure(Tiny(), Tiny(), {"a": []})


def test_models_that_do_not_match_are_refused():
    with pytest.raises(ModelError, match="same shape"):
        measure(Tiny(), lambda ids: torch.zeros(1, ids.shape[1], 61), texts(1))
    with pytest.raises(ModelError, match="too few positions"):
        measure(*[lambda ids: torch.zeros(1, ids.shape[1] - 1, 60)] * 2, texts(1))
