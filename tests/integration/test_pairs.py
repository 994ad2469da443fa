"""From one text to another: on the small trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import higgsx
from higgsx.errors import TextError
from higgsx.integrations.hf.model import HFModel
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import NO_LABEL, Wanted
from task_folders import trained


@pytest.fixture(scope="module")
def folder() -> Path:
    return trained("g2p-bart-us")


@pytest.fixture(scope="module")
def words(folder: Path) -> Path:
    return trained("data") / "g2p-bart-us" / "test.tsv"


@pytest.fixture(scope="module")
def handle(folder: Path) -> HFModel:
    return HFModel.of(Checkpoint.open(folder))


@pytest.fixture(scope="module")
def model(handle: HFModel) -> Any:
    return handle.materialise(torch.float32)


def made(handle: HFModel, model: Any, path: Path, most: int = 300) -> Any:
    return handle.batches(lambda: model, Wanted(most, path)).all()


def test_targets_are_taught_token_by_token(handle: HFModel, model: Any, words: Path) -> None:
    batch = made(handle, model, words)[0]
    count, longest = batch.inputs["decoder_input_ids"].shape
    labels = batch.labels.view(count, longest)
    tokenizer = handle.tokenizer()
    assert batch.right[0] == ("G AE L AH K ER",)
    assert tokenizer.decode(labels[0][labels[0] != NO_LABEL], skip_special_tokens=True) == "G AE L AH K ER"
    assert (batch.inputs["decoder_input_ids"][:, 0] == handle.config.decoder_start_token_id).all()
    with torch.no_grad():
        rows = handle.task.call(model, batch)
        right = (rows.argmax(1) == batch.labels)[batch.labels != NO_LABEL].float().mean()
    assert right > 0.8, "a trained model expects most of the phonemes"


def test_pairs_side_by_side_are_what_they_are_alone(
    handle: HFModel, model: Any, words: Path, tmp_path: Path
) -> None:
    lines = words.read_text().splitlines()[1:9]
    (tmp_path / "all.tsv").write_text("\n".join(lines))
    together = made(handle, model, tmp_path / "all.tsv")[0]
    rows = handle.task.call(model, together).detach().view(8, -1, handle.config.vocab_size)
    for place, line in enumerate(lines):
        (tmp_path / "one.tsv").write_text(line)
        one = made(handle, model, tmp_path / "one.tsv")[0]
        alone = handle.task.call(model, one).detach()
        assert torch.allclose(rows[place, : len(alone)], alone, atol=1e-4)


def test_compressed_is_rated_beside_the_original(folder: Path, words: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    higgsx.compress(folder, out, bits=5, allow=("gauss16", "int8"))
    damage = higgsx.evaluate(out, folder, words, windows=4, floor=False)
    exact, errors = damage.quality
    assert (exact.name, exact.items, errors.items) == ("exact answers", 64, 64)
    assert exact.original.value > 0.4, "the model's own figure is 0.54 on a thousand words"
    assert errors.original.value < 0.3
    assert abs(exact.difference.value) < 0.2
    assert damage.domains == {} and "pairs of the user's: 4 of text" in damage.text


def test_alternatives_count_as_right(handle: HFModel, model: Any, words: Path, tmp_path: Path) -> None:
    judge = handle.judge()
    assert judge is not None
    (said,) = judge.answers(model, made(handle, model, _write(tmp_path, "pass\tP"))[0])
    batch = made(handle, model, _write(tmp_path, f"pass\tP AE|{said}"))[0]
    assert judge.right(batch) == (("P AE", said),)


BAD = {
    "long": ("a" * 60 + "\tP", "pair 1: the source is longer than the model can take, got 6. tokens"),
    "long target": ("pass\t" + "P " * 60, "the target is longer than the model can take"),
    "another language": ("слово\tР Л О\nдом\tД О М", "the pairs do not fit the model"),
    "no pair": ("Once upon a time", "line 1: not a pair"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_pairs_that_do_not_fit_are_found_before_the_work(case: str, folder: Path, tmp_path: Path) -> None:
    content, complaint = BAD[case]
    with pytest.raises(TextError, match=complaint):
        higgsx.compress(folder, tmp_path / "m.hgs", check_text=_write(tmp_path, content))
    assert not (tmp_path / "m.hgs").exists()


def _write(folder: Path, content: str) -> Path:
    path = folder / "pairs.tsv"
    path.write_text(content + "\n")
    return path
