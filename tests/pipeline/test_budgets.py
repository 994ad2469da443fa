"""Budgets are kept to the byte, policies hold, and no uniform plan that fits is better."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import higgsx
from folders import copy_of, tensors_of, write_tensors
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import Solution
from higgsx.almpq.table import CostTable
from higgsx.errors import BudgetError, DataError, UsageError
from higgsx.hgs.draft import total_size
from higgsx.integrations.hf.model import HFModel
from higgsx.pipeline.draft import descriptors_of, draft_of, overhead
from higgsx.pipeline.options import Options
from higgsx.pipeline.plan import cost_table, make_plan
from higgsx.pipeline.survey import Item, survey
from higgsx.source.checkpoint import Checkpoint

Get = Callable[[str], Path]


@dataclass(frozen=True)
class Case:
    """A model before it is planned; errors are those of Gaussian weights."""

    source: Checkpoint
    items: tuple[Item, ...]
    table: CostTable

    @classmethod
    def of(cls, folder: Path, options: Options | None = None) -> Case:
        source, options = Checkpoint.open(folder), options or Options.make()
        items = survey(source, HFModel.of(source), options.policy, options.keep)
        return cls(source, items, cost_table(source, items, options, sample=False))

    def plan(self, **budget: object) -> Plan:
        return make_plan(self.source, self.items, self.table, Options.make(**budget))  # type: ignore[arg-type]

    def size(self, plan: Plan, options: Options) -> int:
        """Of the whole file, exactly."""
        return total_size(draft_of(self.source, self.items, descriptors_of(self.items, plan), plan, options))


@pytest.fixture(scope="module", params=["tales", "gpt2", "opt"])
def case(request: pytest.FixtureRequest, tales: Path, tiny: Get) -> Case:
    return Case.of(tales if request.param == "tales" else tiny(request.param))


def least(error: BudgetError) -> str:
    """The minimum that a message names, as it can be typed."""
    found = re.search(r"at least ([\d.]+B?)", str(error))
    assert found is not None, str(error)
    return found[1]


def test_size_is_never_exceeded(case: Case) -> None:
    with pytest.raises(BudgetError) as caught:
        case.plan(size=1000)
    smallest = int(least(caught.value).removesuffix("B"))
    for extra in [*range(0, 2000, 397), *range(2000, 400_000, 59_989)]:
        options = Options.make(size=smallest + extra)
        plan = make_plan(case.source, case.items, case.table, options)
        assert case.size(plan, options) <= smallest + extra
    with pytest.raises(BudgetError, match=f"at least {smallest}B"):
        case.plan(size=smallest - 1)


def test_overhead_is_enough_for_any_choice(case: Case) -> None:
    options = Options.make(size=10**9)
    fixed = overhead(case.source, case.items, case.table, options)
    draw = random.Random(5)
    spare = []
    for turn in range(12):
        if turn < 2:  # all exact, all as short as possible
            choice = [(0, len(group.candidates) - 1)[turn] for group in case.table.groups]
        else:
            choice = [draw.randrange(len(group.candidates)) for group in case.table.groups]
        solution = Solution(tuple(choice), 0, 0, 0.0, 0.0, False)
        budget = case.plan(size=10**9).budget
        plan = Plan.from_solution(case.table, solution, budget)
        spare.append(fixed + plan.stored - case.size(plan, options))
    assert min(spare) >= 0
    assert max(spare[2:]) < 120 * len(case.table.groups)  # exact tensors need few words


def test_bits_are_never_exceeded(case: Case) -> None:
    with pytest.raises(BudgetError) as caught:
        case.plan(bits="0.5")
    lowest = least(caught.value)
    assert float(case.plan(bits=lowest).bits) <= float(lowest)
    with pytest.raises(BudgetError, match=f"at least {lowest} bits"):
        case.plan(bits=f"{float(lowest) - 0.001:.3f}")
    before = float("inf")
    for bits in ("2.7", "3", "3.33", "4.25", "5", "6.5", "8.25", "12", "40"):
        plan = case.plan(bits=bits)
        assert plan.bits <= float(bits)
        assert plan.loss <= before
        before = plan.loss
    assert before == 0


def test_no_uniform_plan_that_fits_is_better(case: Case) -> None:
    """Counted here once more: one label wherever it is offered, everything else exact or at its cheapest."""
    groups = [group for group in case.table.groups if len(group.candidates) > 1]
    labels = {one.label for group in groups for one in group.candidates}
    assert len(labels) > 15
    capacity = {"2.7", "4.25", "8.25"}
    for bits in capacity:
        plan = case.plan(bits=bits)
        room = float(bits) * plan.weights / 8
        for label in labels:
            chosen = [group.find(label) for group in groups]
            rest = sum(
                group.candidates[0].nbytes
                for group in case.table.groups
                if group.counted and len(group.candidates) == 1
            )
            if all(chosen) and rest + sum(one.nbytes for one in chosen if one) <= room:
                assert plan.loss <= sum(one.loss for one in chosen if one), label


def test_the_smallest_file_can_really_be_made(tales: Path, tmp_path: Path) -> None:
    allow = ("gauss4",)
    with pytest.raises(BudgetError) as caught:
        higgsx.compress(tales, tmp_path / "no.hgs", size=1000, allow=allow)
    assert list(tmp_path.iterdir()) == []
    size = least(caught.value)
    result = higgsx.compress(tales, tmp_path / "m.hgs", size=size, allow=allow, check=False)
    assert result.nbytes == (tmp_path / "m.hgs").stat().st_size <= int(size.removesuffix("B"))
    assert higgsx.verify(tmp_path / "m.hgs") == []
    one_less = int(size.removesuffix("B")) - 1
    with pytest.raises(BudgetError, match=f"at least {size}"):
        higgsx.compress(tales, tmp_path / "no.hgs", size=f"{one_less}B", allow=allow)


def test_hybrid_keeps_what_the_model_reads_and_says(tales: Path) -> None:
    case = Case.of(tales, Options.make(policy="hybrid"))
    plan = case.plan(policy="hybrid")
    exact = {choice.name: choice.why for choice in plan.choices if choice.exact and choice.counted}
    assert exact == {"model.embed_tokens.weight": "kept by policy hybrid"}
    others = [choice for choice in plan.choices if choice.counted and not choice.exact]
    bits = 8 * sum(choice.nbytes for choice in others) / sum(choice.weights for choice in others)
    assert 4.2 < bits <= 4.25
    with pytest.raises(BudgetError) as caught:
        case.plan(policy="hybrid", bits=3)
    assert float(case.plan(policy="hybrid", bits=least(caught.value)).bits) <= float(least(caught.value))


def test_keep_by_pattern(tiny: Get) -> None:
    options = Options.make(bits=8, keep=("*attn.c_proj*", "lm_*", "transformer.wpe.weight")[::2])
    plan = make_plan((case := Case.of(tiny("gpt2"), options)).source, case.items, case.table, options)
    kept = {choice.name for choice in plan.choices if choice.why == "kept by --keep"}
    assert kept == {
        "transformer.h.0.attn.c_proj.weight", "transformer.h.1.attn.c_proj.weight", "transformer.wpe.weight"
    }  # fmt: skip
    assert all(choice.exact for choice in plan.choices if choice.name in kept)
    assert not all(choice.exact for choice in plan.choices if choice.counted)
    with pytest.raises(UsageError, match="no tensor has such a name.*lm_"):
        Case.of(tiny("gpt2"), Options.make(keep=("lm_*",)))


def labels(folder: Path, *allow: str, **budget: object) -> set[str]:
    options = Options.make(allow=allow, **budget)  # type: ignore[arg-type]
    case = Case.of(folder, options)
    plan = make_plan(case.source, case.items, case.table, options)
    return {choice.label for choice in plan.choices if choice.counted}


def test_allow_restricts_the_codes(tiny: Get) -> None:
    assert {label.split(".")[0] for label in labels(tiny("llama"), "int8", bits="8.5")} == {"int8"}
    assert labels(tiny("qwen2-untied"), "bf16", bits=16) == {"bf16"}
    assert labels(tiny("qwen2-untied"), "fp16", bits=16) == {"fp16"}
    assert labels(tiny("llama"), "fp16", bits=16) == {"exact"}
    mixed = labels(tiny("qwen2-untied"), "int4", "bf16", bits=8)
    assert "bf16" in mixed
    assert mixed - {"bf16"} <= {"int4.b32", "int4.b64", "int4.b128", "int4.row"}


def test_float32_may_be_halved_without_a_word(tiny: Get) -> None:
    assert "bf16" in labels(tiny("qwen2-untied"), bits=15)


def test_shorter_floats_are_what_torch_makes_of_them(tiny: Get, tmp_path: Path) -> None:
    originals = tensors_of(tiny("qwen2-untied"))
    for word, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        out = tmp_path / f"{word}.hgs"
        result = higgsx.compress(tiny("qwen2-untied"), out, bits=16, allow=(word,), check=False)
        assert result.bits == 16
        from higgsx.archive import Archive

        with Archive.open(out) as archive:
            name = "model.layers.1.mlp.up_proj.weight"
            assert torch.equal(archive.decode(name), originals[name].to(dtype))


def test_a_weight_that_a_short_float_cannot_hold(tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("qwen2-untied"), tmp_path / "model")
    tensors = tensors_of(folder)
    tensors["model.layers.1.mlp.up_proj.weight"][:, 3] = 1e5
    write_tensors(folder, tensors)
    with pytest.raises(DataError, match="up_proj.*too large for fp16"):
        higgsx.compress(folder, tmp_path / "m.hgs", bits=16, allow=("fp16",), check=False)
    assert not list(tmp_path.glob("*.hgs*"))


def test_weights_of_any_magnitude_keep_their_errors(tiny: Get, tmp_path: Path) -> None:
    """float16 scales have a range; the sample that the plan rests on must use it as the file does."""
    found = []
    for power in (0, -30, 30):
        folder = copy_of(tiny("qwen2-untied"), tmp_path / f"scaled{power}")
        tensors = {
            name: tensor * 2.0**power if tensor.dim() > 1 else tensor
            for name, tensor in tensors_of(folder).items()
        }
        write_tensors(folder, tensors)
        result = higgsx.compress(
            folder, tmp_path / f"{power}.hgs", bits=4.5, allow=("int4", "int8"), check=False
        )
        found.append([(choice.label, choice.loss) for choice in result.plan.choices])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": "fancy"},
        {"method": "magic"},
        {"allow": ("int9",)},
        {"allow": ("int4", "nonsense")},
        {"bits": "0"},
        {"bits": "-4"},
        {"bits": "nan"},
        {"bits": "inf"},
        {"bits": "four"},
        {"bits": "65"},
        {"size": "800"},
        {"size": "0B"},
        {"size": "-5MB"},
        {"size": "MB"},
        {"size": "1e3MB"},
        {"size": -1},
        {"size": True},
        {"bits": 4, "size": "1MB"},
    ],
    ids=str,
)
def test_wrong_words_and_numbers(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Options.make(**wrong)  # type: ignore[arg-type]
