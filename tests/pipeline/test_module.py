"""A module of a class that nobody registered: compressed with its task, loaded into another instance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import higgsx
from higgsx.errors import BudgetError, ModelError, SourceError, UsageError
from higgsx.fidelity.report import Damage
from higgsx.tasks import Example, LanguageModel, Pictures

QUICK = {"bits": 6, "allow": ("gauss16", "int8", "bf16")}


class Sees(nn.Module):
    """Convolutions, a running mean, a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.second, self.top = nn.Conv2d(32, 64, 3, stride=2), nn.Linear(64, 10)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(pixel_values)))
        return self.top(torch.relu(self.second(x)).mean((2, 3))) * self.scale


class Reads(nn.Module):
    """A language model whose head is its table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Embedding(60, 64), nn.Linear(64, 64)
        self.head = nn.Linear(64, 60, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.inner(torch.cumsum(self.table(ids), dim=1) / 8))) / 8


def seen(count: int = 10) -> list[Example]:
    draw = torch.Generator().manual_seed(1)
    return [
        Example({"pixel_values": torch.randn(4, 3, 12, 12, generator=draw)}, torch.randint(0, 10, (4,)))
        for _ in range(count)
    ]


def texts(count: int = 10) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return [torch.randint(0, 60, (1, 20), generator=draw) for _ in range(count)]


def test_a_module_goes_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, out = Sees(), tmp_path / "m.hgs"
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = higgsx.compress(module, out, task=Pictures(), batches=seen(), **QUICK)
    assert isinstance(result.damage, Damage) and 0 < result.damage.total.kl.mean.value < 0.01
    assert result.damage.total.tokens == 8, "measured on the last two of ten batches"
    assert module.training and all(
        torch.equal(before[name], one) for name, one in module.state_dict().items()
    )
    report = higgsx.inspect(out)
    codes = {row.name: row.code for row in report.tensors}
    assert (
        codes["norm.num_batches_tracked"] == "i64"
        and "bf16" in codes["first.bias"]
        or codes["first.bias"] == "fp32"
    )
    assert any(code.startswith(("gauss16", "int8")) for code in codes.values())
    assert higgsx.verify(out) == []
    other = Sees().eval()
    higgsx.load(out, into=other, packed=False)
    module.eval()
    x = seen(1)[0].inputs["pixel_values"]
    with torch.no_grad():
        gap = (other(x) - module(x)).pow(2).sum() / module(x).pow(2).sum()
    assert 0 < gap < 0.01


def test_ties_stay_ties(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, out = Reads().eval(), tmp_path / "m.hgs"
    higgsx.compress(module, out, task=LanguageModel(), batches=texts(), bits=8.6, allow=("int8",))
    assert higgsx.inspect(out).ties == (("table.weight", "head.weight"),)
    other = Reads().eval()
    higgsx.load(out, into=other, packed=False)
    assert other.head.weight is other.table.weight
    with torch.no_grad():
        assert torch.allclose(other(texts()[0]), module(texts()[0]), atol=0.2)


def test_the_same_module_gives_the_same_file_and_another_does_not(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(seed)
        module = Reads().eval()
        digests.append(
            higgsx.compress(
                module, tmp_path / f"{number}.hgs", task=LanguageModel(), batches=texts(), **QUICK
            )
        )
    first, second, third = (one.content_digest for one in digests)
    assert first == second != third


def test_a_task_that_the_model_cannot_do(tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    with pytest.raises(ModelError, match="the task cannot call the module"):
        higgsx.compress(Reads(), out, task=Pictures(), batches=seen(), **QUICK)

    class Wrong(LanguageModel):
        def labels(self, batch: torch.Tensor) -> torch.Tensor:
            return torch.zeros(3, dtype=torch.int64)

    with pytest.raises(ModelError, match=r"one row for each label, got shape \(20, 60\) for 3 labels"):
        higgsx.compress(Reads(), out, task=Wrong(), batches=texts(), **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_what_a_module_needs_is_said(tales: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    with pytest.raises(UsageError, match="a module needs a task"):
        higgsx.compress(Reads(), out, **QUICK)
    with pytest.raises(UsageError, match="no batches"):
        higgsx.compress(Reads(), out, task=LanguageModel(), **QUICK)
    with pytest.raises(UsageError, match="no name for the file"):
        higgsx.compress(Reads(), task=LanguageModel(), batches=texts(), **QUICK)
    with pytest.raises(UsageError, match="a folder has a task of its own"):
        higgsx.compress(tales, out, task=LanguageModel(), **QUICK)
    with pytest.raises(UsageError, match="batches that it came with"):
        higgsx.compress(
            Reads(), out, task=LanguageModel(), batches=texts(), check_text=tales / "README.md", **QUICK
        )
    with torch.device("meta"):
        empty = Reads()
    with pytest.raises(SourceError, match=r"table\.weight: has no values"):
        higgsx.compress(empty, out, task=LanguageModel(), batches=texts(), **QUICK)
    with pytest.raises(BudgetError):
        higgsx.compress(Reads(), out, task=LanguageModel(), batches=texts(), bits=0.5)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_class_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    higgsx.compress(Reads(), out, task=LanguageModel(), batches=texts(), **QUICK, check=False)
    with pytest.raises(ModelError, match="no place in the model"):
        higgsx.load(out, into=Sees())
