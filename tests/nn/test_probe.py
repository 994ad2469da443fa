"""The probe passes what is right and names what is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY, build, encode_model
from torch import nn

from higgsx.codecs.dense import Dense
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.nn.census import census
from higgsx.nn.packed import is_packed
from higgsx.nn.probe import encode_plainly, probe, probe_packed
from higgsx.nn.swap import swap

X = torch.linspace(-1, 1, 24).view(3, 8)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(F.dropout(self.second(self.first(x).relu()).relu(), 0.5))


class Asks(Net):
    """Takes another way where its weight is no plain parameter."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = type(self.second.weight) is nn.Parameter
        return super().forward(x) + (0.0 if plain else 1.0)


class Insists(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(self.third.weight, nn.Parameter):
            raise TypeError("a parameter is needed")
        return super().forward(x)


def call(model: nn.Module) -> torch.Tensor:
    return model(X)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "whisper", "vit", "mamba"])
def test_families_are_served(name: str):
    model = build(name)
    found = census(model, TINY[name].call)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert probe(model, TINY[name].call, found.weights) == ()
    assert not any(is_packed(module) for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("cls", "name", "reason"),
    [
        (Asks, "second.weight", "the result differs"),
        (Insists, "third.weight", "TypeError: a parameter is needed"),
    ],
)
def test_what_fails_is_named_alone(cls: type[Net], name: str, reason: str):
    torch.manual_seed(0)
    model = cls()
    ((found, why),) = probe(model, call, census(model, call).weights)
    assert found == name and why.startswith(reason)


def test_a_model_that_never_repeats_cannot_be_probed():
    torch.manual_seed(0)
    model, count = Net(), iter(range(9))
    with pytest.raises(ModelError, match="two runs with equal inputs differ"):
        probe(model, lambda m: m(X) + next(count), census(model, call).weights)


def test_compressed_model_cannot_be_probed_again():
    torch.manual_seed(0)
    model = Net()
    found = census(model, call)
    swap(model, *encode_model(model, found))
    with pytest.raises(ModelError, match="compressed already"):
        probe(model, call, found.weights)


def test_probe_of_a_compressed_model():
    for cls, ends in ((Net, None), (Asks, "the result differs"), (Insists, "TypeError")):
        torch.manual_seed(0)
        model = cls()
        swap(model, *encode_model(model, census(model, call)))
        why = probe_packed(model, call)
        assert why is None if ends is None else why is not None and why.startswith(ends)


@pytest.mark.parametrize(
    ("shape", "axes"), [((20, 8), "oi"), ((8, 20), "io"), ((3, 20, 8), "eoi"), ((5, 4, 3), "oik")]
)
def test_plain_encoding_is_close(shape: tuple[int, ...], axes: str):
    torch.manual_seed(0)
    values = torch.randn(shape)
    descriptor, arrays = encode_plainly(values, Descriptor("F32", shape, axes, Dense("F32")))
    assert {suffix: ("U8", tuple(array.shape)) for suffix, array in arrays.items()} == descriptor.arrays()
    error = (descriptor.decode(arrays) - values).abs().max()
    assert 0 < error < 0.6 * values.abs().max() / 127
