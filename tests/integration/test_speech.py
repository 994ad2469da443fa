"""Speech to text on the small trained model: clips, transcripts, error rates, bad sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import higgsx
from higgsx.errors import TextError, UsageError
from higgsx.integrations.hf.listening import cut_at_pauses, listener_of
from higgsx.integrations.hf.model import HFModel
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import NO_LABEL, Wanted
from task_folders import TALES, trained, write_wav

TONE = 0.3 * np.sin(np.arange(16000) / 5)


@pytest.fixture(scope="module")
def digits() -> Path:
    return trained("whisper-digits-2m")


@pytest.fixture(scope="module")
def clips(digits: Path) -> Path:
    return trained("data") / "whisper-digits" / "test"


@pytest.fixture(scope="module")
def handle(digits: Path) -> HFModel:
    return HFModel.of(Checkpoint.open(digits))


@pytest.fixture(scope="module")
def model(handle: HFModel) -> Any:
    return handle.materialise(torch.float32)


@pytest.fixture(scope="module")
def compressed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speech") / "digits.hgs"
    higgsx.compress(digits, out, bits=5, allow=("gauss16", "int8"))
    return out


def made(
    handle: HFModel, model: Any, path: Path, most: int = 200, part: Any = "check", shared: bool = False
) -> Any:
    return handle.batches(lambda: model, Wanted(most, path, None, part, shared)).all()


def test_transcripts_are_taught_word_by_word(handle: HFModel, model: Any, clips: Path) -> None:
    batch = made(handle, model, clips)[0]
    assert batch.right == (("seven two two one",),)
    tokenizer = handle.processor().tokenizer
    kept = batch.labels[batch.labels != NO_LABEL]
    assert tokenizer.decode(kept[:-1]).strip() == "seven two two one" and int(kept[-1]) == 291
    assert batch.inputs["decoder_input_ids"][0, :2].tolist() == [292, 293], "start, no timestamps"
    assert batch.labels[0] == NO_LABEL and len(batch.labels) == batch.inputs["decoder_input_ids"].shape[1]
    # on real speech the trained model expects these very words
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(
            handle.task.call(model, batch), batch.labels, ignore_index=-1
        )
    assert loss < 0.5


def test_clips_without_transcripts_get_what_the_model_says(
    handle: HFModel, model: Any, clips: Path, tmp_path: Path
) -> None:
    for name in ("000.wav", "001.wav"):
        (tmp_path / name).write_bytes((clips / name).read_bytes())
    first, second = made(handle, model, tmp_path)
    assert first.right == second.right == ()
    said = handle.processor().tokenizer.decode(
        first.labels[first.labels != NO_LABEL], skip_special_tokens=True
    )
    assert set(said.split()) <= {
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    }


def test_parts_of_shared_clips_share_none(handle: HFModel, model: Any, clips: Path) -> None:
    parts = [made(handle, model, clips, 20, part, True) for part in ("calibration", "check")]
    assert parts[0][0].right == (("seven two two one",),)
    assert not torch.equal(parts[0][0].inputs["input_features"], parts[1][0].inputs["input_features"])


def test_error_rates_of_both_models(digits: Path, clips: Path, compressed: Path) -> None:
    damage = higgsx.evaluate(compressed, digits, clips, windows=20, floor=False)
    assert [rate.name for rate in damage.quality] == ["WER", "CER"]
    wer, cer = damage.quality
    assert wer.items == 20 and wer.against == "what is right"
    assert 0 <= cer.original.value <= wer.original.value < 0.3
    assert abs(wer.difference.value) < 0.2
    assert 0 < damage.total.kl.mean.value < 0.1
    assert damage.to_json()["quality"][0]["original"] == pytest.approx(wer.original.value, abs=1e-6)


def test_greedy_answers_are_those_of_transformers(handle: HFModel, model: Any, clips: Path) -> None:
    judge = handle.judge()
    assert judge is not None
    tokenizer = handle.processor().tokenizer
    for batch in made(handle, model, clips, 30):
        with torch.inference_mode():
            ids = model.generate(batch.inputs["input_features"], num_beams=1, do_sample=False)
        assert judge.answers(model, batch) == [tokenizer.decode(ids[0], skip_special_tokens=True).strip()]


BAD = {
    "rate": (
        lambda path: write_wav(path, TONE, rate=8000),
        "wrong sampling rate, got 8000 Hz, expected 16000",
    ),
    "long": (
        lambda path: write_wav(path, np.tile(TONE, 4)),
        "longer than the model hears at once, got 4.0 s",
    ),
    "empty": (lambda path: write_wav(path, TONE[:0]), "empty or too short"),
    "text": (lambda path: path.write_text("Once upon a time"), "not a wav file"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_sounds_are_found_before_the_work(case: str, digits: Path, tmp_path: Path) -> None:
    make, complaint = BAD[case]
    make(tmp_path / "clip.wav")
    stages: list[str] = []
    with pytest.raises(TextError, match=complaint):
        higgsx.compress(
            digits, tmp_path / "m.hgs", check_text=tmp_path / "clip.wav",
            progress=lambda stage, done, total: stages.append(stage),
        )  # fmt: skip
    assert stages == [] and not (tmp_path / "m.hgs").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("one " * 40, "longer than the model can say"), ("  ", "pair is empty")],
)
def test_transcripts_that_the_model_cannot_say(
    text: str, complaint: str, handle: HFModel, model: Any, tmp_path: Path
) -> None:
    write_wav(tmp_path / "clip.wav", TONE)
    (tmp_path / "refs.tsv").write_text(f"file\ttext\nclip.wav\t{text}\n")
    with pytest.raises(TextError, match=complaint):
        made(handle, model, tmp_path)


def test_a_loaded_file_listens(compressed: Path, clips: Path) -> None:
    model, processor = higgsx.load(compressed)
    listener = listener_of(model, processor)
    assert listener.rate == 16000
    samples = listener.read(clips / "000.wav")
    assert list(listener.pieces(samples)) == ["seven two two one"]
    both = torch.cat([samples, torch.zeros(4800), samples])
    assert " ".join(listener.pieces(both)).count("seven") == 2, "longer than the model hears at once"
    with pytest.raises(UsageError, match="does not know this language, got fr"):
        listener_of(model, processor, "fr")
    language, tokenizer = higgsx.load(_tales_hgs(compressed.parent))
    with pytest.raises(UsageError, match="does not turn speech into text"):
        listener_of(language, tokenizer)


def _tales_hgs(folder: Path) -> Path:
    path = folder / "tales.hgs"
    higgsx.compress(TALES, path, bits=6, allow=("int8", "gauss16"), check=False)
    return path


def test_long_sounds_are_cut_where_it_is_quiet() -> None:
    draw = torch.Generator().manual_seed(0)
    samples = torch.randn(50_000, generator=draw)
    samples[17_000:18_500] *= 0.01
    parts = list(cut_at_pauses(samples, 20_000, 16_000))
    assert torch.equal(torch.cat(parts), samples)
    assert all(0 < len(part) <= 20_000 for part in parts) and 17_000 < len(parts[0]) < 18_500
