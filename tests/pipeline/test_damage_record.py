"""The short check after encoding, its record in the file, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import higgsx
from folders import copy_of, edit_config, tensors_of, write_tensors
from higgsx.errors import DamageError, ModelError, TextError, UsageError
from higgsx.fidelity.report import Damage, NotMeasured
from higgsx.pipeline import check

Get = Callable[[str], Path]
QUICK = {"bits": 4.5, "allow": ("gauss16", "int8")}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text("Once upon a time there was a little dog who wanted to see the moon. " * 60)
    return path


@pytest.fixture
def short_tales(tales: Path, tmp_path: Path) -> Path:
    """The shipped model, said to take 40 tokens at most."""
    folder = copy_of(tales, tmp_path / "short")
    edit_config(folder, max_position_embeddings=40)
    return folder


def test_record_is_in_the_file(tales_hgs: Path) -> None:
    damage = higgsx.inspect(tales_hgs).damage
    assert isinstance(damage, Damage)
    found = damage.to_json()
    assert 0 < found["kl"]["mean"] < 0.1
    assert found["top1_agreement"] > 0.8
    assert set(found["domains"]) == {"English", "Russian", "code"}
    assert "bf16" in found["arithmetic"]["original"]
    assert found["longest_window"] == check.WINDOW


def test_windows_fit_the_model(short_tales: Path, tmp_path: Path) -> None:
    result = higgsx.compress(short_tales, tmp_path / "m.hgs", **QUICK)
    assert isinstance(result.damage, Damage)
    assert result.damage.longest == 40
    assert higgsx.evaluate(tmp_path / "m.hgs", short_tales, floor=False).longest == 40
    with pytest.raises(UsageError, match="longer than the model can take"):
        higgsx.evaluate(tmp_path / "m.hgs", short_tales, window=41)


def test_text_of_the_user(tales: Path, text: Path, tmp_path: Path) -> None:
    result = higgsx.compress(tales, tmp_path / "m.hgs", **QUICK, check_text=text)
    assert isinstance(result.damage, Damage)
    assert result.damage.text == "a text of the user's"
    assert result.damage.total.windows > 0


def test_without_a_tokenizer_nothing_is_measured(tiny: Get, tmp_path: Path) -> None:
    result = higgsx.compress(tiny("llama"), tmp_path / "m.hgs", **QUICK)
    assert result.damage == NotMeasured("the model has no tokenizer")
    assert higgsx.inspect(tmp_path / "m.hgs").damage == result.damage
    with pytest.raises(DamageError, match="cannot be measured"):
        higgsx.compress(tiny("llama"), tmp_path / "no.hgs", **QUICK, max_damage=1.0)
    assert not (tmp_path / "no.hgs").exists()


def test_not_asked_for(tiny: Get, tmp_path: Path) -> None:
    result = higgsx.compress(tiny("llama"), tmp_path / "m.hgs", **QUICK, check=False)
    assert result.damage == NotMeasured("not asked for")


@pytest.mark.parametrize("wrong", [{"max_damage": 0.1}, {"check_text": "story.txt"}])
def test_no_check_contradicts(wrong: dict[str, object], tiny: Get, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without a check"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", **QUICK, check=False, **wrong)


@pytest.mark.parametrize("limit", [-0.1, float("nan"), float("inf")])
def test_limit_is_a_number(limit: float, tiny: Get, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a limit"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", **QUICK, max_damage=limit)


def test_gate_puts_the_result_aside(short_tales: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "m.hgs"
    out.parent.mkdir()
    with pytest.raises(DamageError, match="above the allowed 0.0001"):
        higgsx.compress(short_tales, out, **QUICK, max_damage=1e-4)
    aside = out.with_name("m.rejected.hgs")
    assert list(out.parent.iterdir()) == [aside]
    report = higgsx.inspect(aside)
    assert "above the allowed 0.0001" in report.rejected
    assert any("REJECTED" in line for line in report.summary())
    assert isinstance(report.damage, Damage)
    assert report.to_json()["rejected"] == report.rejected
    assert higgsx.verify(aside) == []


def test_broken_results_are_refused_without_a_limit(short_tales: Path, tmp_path: Path) -> None:
    """Finite weights, infinite logits."""
    tensors = tensors_of(short_tales)
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    write_tensors(short_tales, tensors)
    with pytest.raises(DamageError, match="refused.*NaN or Inf"):
        higgsx.compress(short_tales, tmp_path / "m.hgs", **QUICK)
    assert not (tmp_path / "m.hgs").exists()
    assert "NaN or Inf" in higgsx.inspect(tmp_path / "m.rejected.hgs").rejected


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"", "empty"), (b"  \n", "empty"), (b"too short", "too short"), (b"\xff\xfe", "UTF-8")],
)
def test_bad_text_is_found_before_the_work(
    content: bytes, complaint: str, tales: Path, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    stages: list[str] = []
    with pytest.raises(TextError, match=complaint):
        higgsx.compress(
            tales,
            tmp_path / "m.hgs",
            check_text=path,
            progress=lambda stage, done, total: stages.append(stage),
        )
    assert stages == []
    assert list(tmp_path.iterdir()) == [path]


def test_tokenizer_of_another_model(tales: Path, tmp_path: Path) -> None:
    folder = copy_of(tales, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: number + 5000 for word, number in vocabulary.items()}
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TextError, match="token id that the model does not have"):
        higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    (folder / "tokenizer.json").write_text("{]")
    with pytest.raises(ModelError, match="tokenizer"):
        higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    assert not list(tmp_path.glob("*.hgs"))


def test_evaluate(tales: Path, tales_hgs: Path, text: Path) -> None:
    found = higgsx.evaluate(tales_hgs, tales, text, window=64, windows=6).to_json()
    assert 0 < found["kl"]["mean"] < found["kl"]["p99"] <= found["kl"]["p999"] <= found["kl"]["max"]
    assert 0 < found["kl"]["median"] <= found["kl"]["p90"]
    assert 0.5 < found["top1_agreement"] < 1
    assert found["perplexity"]["original"] > 1
    assert found["perplexity"]["compressed"] > 1
    assert found["perplexity"]["original_standard_error"] > 0
    assert found["confidence"]
    assert found["windows"] == 6
    assert found["noise_floor"]["kl"]["mean"] < found["kl"]["mean"]
    assert found["arithmetic"]["compressed"] == "weights fp32, arithmetic fp32"


def test_a_file_equals_its_unpacked_folder(tales_hgs: Path, text: Path, tmp_path: Path) -> None:
    """In bf16, the damage of a file against what was unpacked from it is exactly nothing."""
    higgsx.unpack(tales_hgs, tmp_path / "plain")
    found = higgsx.evaluate(
        tales_hgs, tmp_path / "plain", text, window=64, windows=3, dtype=torch.bfloat16, floor=False
    ).to_json()
    assert found["kl"]["max"] == 0
    assert found["top1_agreement"] == 1


def test_evaluate_against_another_kind_of_model(tales_hgs: Path, tiny: Get, tales: Path, text: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        higgsx.evaluate(tales_hgs, tiny("llama"), text)
    with pytest.raises(UsageError, match="no windows"):
        higgsx.evaluate(tales_hgs, tales, text, windows=0)
    with pytest.raises(TextError, match="too short"):
        higgsx.evaluate(tales_hgs, tales, {"a": tales / "generation_config.json"}, window=512)
