"""Gradients, saved cost tables and `max_kl` through the public functions, on the model of the package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import higgsx
from folders import copy_of, tensors_of, write_tensors
from higgsx.errors import DamageError, TextError, UsageError
from higgsx.fidelity.report import Damage
from higgsx.pipeline.learn import Learning, advice, require_enough
from higgsx.tasks import Batches

Get = Callable[[str], Path]
QUICK = {"allow": ("gauss4", "gauss8", "gauss16", "int8"), "gradients": True, "calibration_tokens": 512}


@pytest.fixture(scope="module")
def table(tales: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "tales.table"
    higgsx.plan(tales, bits=4, table=path, **QUICK)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("Once upon a time there was a little dog who wanted to see the moon. " * 120)
    return path


def test_plan_and_compress_agree_with_and_without_a_saved_table(
    tales: Path, table: Path, tmp_path: Path
) -> None:
    forecast = higgsx.plan(tales, bits=4, table=table, **QUICK)
    fresh = higgsx.compress(tales, tmp_path / "a.hgs", bits=4, check=False, **QUICK)
    kept = higgsx.compress(tales, tmp_path / "b.hgs", bits=4, check=False, table=table, **QUICK)
    assert fresh.learned
    assert kept.learned
    assert forecast.learned
    assert fresh.plan == kept.plan == forecast.plan
    assert fresh.content_digest == kept.content_digest
    assert "gradients over" in forecast.table.constants
    without = higgsx.compress(tales, tmp_path / "c.hgs", bits=4, check=False, allow=QUICK["allow"])
    assert not without.learned
    assert "--gradients" in without.advice
    assert without.plan.choices != kept.plan.choices


def test_another_budget_from_the_same_table(tales: Path, table: Path, tmp_path: Path) -> None:
    before = table.read_bytes()
    # a request without gradients is served too: the table has them
    result = higgsx.compress(
        tales, tmp_path / "m.hgs", bits=3, check=False, table=table, allow=QUICK["allow"]
    )
    assert result.learned
    assert result.bits <= 3
    assert table.read_bytes() == before


def test_learned_plan_explains_itself(tales: Path, table: Path) -> None:
    lines = "\n".join(higgsx.plan(tales, bits=4, table=table, **QUICK).summary())
    assert "learned from data" in lines
    assert "times what it costs in the median tensor" in lines
    without = "\n".join(higgsx.plan(tales, bits=4).summary())
    assert "--gradients would take about" in without


def test_table_of_another_model_is_refused(tales: Path, table: Path, tmp_path: Path) -> None:
    folder = copy_of(tales, tmp_path / "other")
    write_tensors(folder, {name: tensor * 1.01 for name, tensor in tensors_of(folder).items()})
    with pytest.raises(UsageError, match="made for another model"):
        higgsx.plan(folder, bits=4, table=table, **QUICK)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"allow": ("gauss16",)}, "list of codes"),
        ({"policy": "hybrid"}, "policy"),
        ({"keep": ("*norm*",)}, "list of kept tensors"),
        ({"calibration_tokens": 1024}, "material to learn from"),
    ],
)
def test_table_of_another_request_is_refused(tales: Path, table: Path, change: dict, named: str) -> None:
    with pytest.raises(UsageError, match=f"made for another {named}"):
        higgsx.plan(tales, bits=4, table=table, **{**QUICK, **change})


def test_table_of_another_version_or_no_table(
    tales: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "x.table"
    other.write_bytes(b"not a table")
    with pytest.raises(UsageError, match="not a saved cost table"):
        higgsx.plan(tales, bits=4, table=other, **QUICK)
    save_file({"a": torch.zeros(2)}, other, {"format": "pt"})
    with pytest.raises(UsageError, match="not a saved cost table"):
        higgsx.plan(tales, bits=4, table=other, **QUICK)
    monkeypatch.setattr("higgsx.pipeline.tables.__version__", "9.9")
    with pytest.raises(UsageError, match="version of higgsx"):
        higgsx.plan(tales, bits=4, table=table, **QUICK)


def test_statistics_are_plain_arrays(table: Path) -> None:
    arrays = load_file(table)
    rows = {name: len(values) for name, values in arrays.items()}
    assert any(name.endswith(".r") for name in rows)
    for name in rows:
        if name.endswith(".r"):
            assert rows[name.removesuffix(".r") + ".powers"] == rows[name]
            assert (arrays[name] >= 0).all()


def test_a_text_that_serves_both_is_divided(tales: Path, text: Path, tmp_path: Path) -> None:
    result = higgsx.compress(
        tales, tmp_path / "m.hgs", bits=4, allow=QUICK["allow"], calibration=text, calibration_tokens=2048,
        check_text=text,
    )  # fmt: skip
    alone = higgsx.compress(tales, tmp_path / "n.hgs", bits=4, allow=QUICK["allow"], check_text=text)
    assert result.learned
    assert result.damage.total.tokens < alone.damage.total.tokens


def test_too_little_text(tales: Path, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short = tmp_path / "short.txt"
    short.write_text(text.read_text()[:900])
    with pytest.raises(TextError, match=r"missing|too short"):
        higgsx.compress(tales, tmp_path / "m.hgs", bits=4, check=False, calibration=short)
    assert not (tmp_path / "m.hgs").exists()
    with caplog.at_level(logging.WARNING, logger="higgsx"):
        higgsx.plan(tales, bits=4, allow=QUICK["allow"], calibration=text)
    assert "are missing" in caplog.text


def test_calibration_implies_gradients_and_tokens_need_them(tales: Path) -> None:
    with pytest.raises(UsageError, match="nothing is to be learned"):
        higgsx.plan(tales, bits=4, calibration_tokens=512)
    with pytest.raises(UsageError, match="number of tokens to learn from"):
        higgsx.plan(tales, bits=4, gradients=True, calibration_tokens=5)


def test_max_kl_is_kept_and_the_file_is_small(tales: Path, table: Path, tmp_path: Path) -> None:
    found = {}
    for most in (0.2, 0.05):
        result = higgsx.compress(tales, tmp_path / f"{most}.hgs", max_kl=most, table=table, **QUICK)
        assert result.damage.total.kl.mean.value <= most
        assert result.plan.budget is None
        found[most] = result.nbytes
    assert found[0.2] < found[0.05]
    # not merely everything exact
    assert found[0.05] < 0.6 * result.source_bytes


def test_max_kl_below_every_code_keeps_everything_exact(tales: Path, table: Path, tmp_path: Path) -> None:
    """What no code reaches, the original does. Failing honestly is tested in `test_target.py`."""
    result = higgsx.compress(tales, tmp_path / "m.hgs", max_kl=1e-9, table=table, **QUICK)
    assert isinstance(result.damage, Damage) and result.damage.total.kl.mean.value <= 1e-9
    assert result.bits == 16
    assert [path.name for path in tmp_path.iterdir()] == ["m.hgs"]


def test_max_kl_excludes_other_budgets_and_needs_the_check(tales: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give one budget"):
        higgsx.compress(tales, tmp_path / "m.hgs", max_kl=0.1, bits=4)
    with pytest.raises(UsageError, match="not a loss to stay below"):
        higgsx.compress(tales, tmp_path / "m.hgs", max_kl=-1)
    with pytest.raises(DamageError, match="cannot be measured"):
        higgsx.compress(tales, tmp_path / "m.hgs", max_kl=0.1, check=False)


def test_what_gradients_win_is_told_of_what_they_were_measured_on() -> None:
    def said(kind: str) -> str:
        return advice((10**9, 200.0), SimpleNamespace(task=SimpleNamespace(kind=kind)))

    assert "3 minutes" in said("language") and "lowered the loss" in said("language")
    assert "3 minutes" in said("pairs") and "lowered" not in said("pairs")
    assert said("speech") == "" and advice(None, SimpleNamespace()) == ""


@pytest.mark.parametrize(("kind", "fewest"), [("speech", 128), ("image", 32), ("language", 256)])
def test_how_little_is_too_little(kind: str, fewest: int, caplog: pytest.LogCaptureFixture) -> None:
    handle = SimpleNamespace(task=SimpleNamespace(kind=kind, tokens=lambda batch: batch))
    some = Learning(path=Path("some"))
    with caplog.at_level(logging.WARNING, logger="higgsx"):
        require_enough(Batches({"a": [fewest - 8, 8]}, ""), handle, some)
    assert f"{8192 - fewest} are missing" in caplog.text
    with pytest.raises(TextError, match=rf"{fewest} or more \(1 are missing"):
        require_enough(Batches({"a": [fewest - 1]}, ""), handle, some)


def test_speech_from_nothing_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("language", "speech"):
        handle = SimpleNamespace(task=SimpleNamespace(kind=kind, tokens=lambda batch: batch))
        with caplog.at_level(logging.WARNING, logger="higgsx"):
            require_enough(Batches({"a": [9]}, ""), handle, Learning(True))
        assert ("synthesised voices" in caplog.text) == (kind == "speech")
