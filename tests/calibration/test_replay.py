"""Runs that take what they can from memory, against runs that compute everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from higgsx.calibration.replay import Replay


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.runs = 0

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        self.runs += 1
        return x + scale * torch.tanh(self.inner(x)), None


class Model(nn.Module):
    """An encoder and a decoder; one layer is used twice, and whoever gets a block's output writes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Block() for _ in range(3))
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 8)
        self.head.weight = self.layers[2].inner.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.encoder.layers:
            x, _ = block(x)
            x.mul_(1.5)
        first, second, third = self.layers
        x, _ = first(x, scale=0.5)
        x, _ = first(x, scale=2.0)
        x, _ = second(x)
        return self.head(third(x)[0])


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def runs(model: Model) -> list[int]:
    return [block.runs for block in (*model.encoder.layers, *model.layers)]


NAMES = [name for name, _ in Model().named_parameters(remove_duplicate=False)]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_results_are_those_of_a_whole_run(model: Model, name: str) -> None:
    batches = [torch.randn(4, 8) for _ in range(2)]
    replay = Replay(model)
    with replay.recording(len(batches)):
        before = [model(batch) for batch in batches]
    dict(model.named_parameters(remove_duplicate=False))[name].data.add_(0.1)
    wanted = [model(batch) for batch in batches]
    assert not any(torch.equal(*pair) for pair in zip(wanted, before, strict=True))
    for _ in range(2):
        with replay.changed([name]):
            found = [model(batch) for batch in batches]
        assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert all(torch.equal(model(batch), one) for batch, one in zip(batches, wanted, strict=True))


@pytest.mark.parametrize(
    ("names", "computed"),
    [
        (["layers.1.inner.bias"], [0, 0, 0, 4, 2, 2]),
        (["encoder.layers.1.inner.weight"], [0, 2, 2, 4, 2, 2]),
        (["layers.1.inner.bias", "encoder.layers.2.inner.bias"], [0, 0, 2, 4, 2, 2]),
        (["layers.2.inner.weight"], [2, 2, 2, 4, 2, 2]),  # the head has it too
        (["embed.weight"], [2, 2, 2, 4, 2, 2]),
    ],
)
@torch.no_grad()
def test_blocks_before_the_change_do_not_run(model: Model, names: list[str], computed: list[int]) -> None:
    batches = [torch.randn(4, 8) for _ in range(2)]
    replay = Replay(model)
    with replay.recording(len(batches)):
        [model(batch) for batch in batches]
    before = runs(model)
    with replay.changed(names):
        [model(batch) for batch in batches]
    assert [now - then for now, then in zip(runs(model), before, strict=True)] == computed
