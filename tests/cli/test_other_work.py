"""`run` and `eval` for models that do something else than continue a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import higgsx
from task_folders import task_folder, trained

Run = Callable[..., Any]
Fails = Callable[..., str]
QUICK = {"bits": 5, "allow": ("gauss16", "int8"), "check": False}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp("files")
            folder = task_folder(name, place / "model") if name == "encoder" else trained(name)
            made[name] = place / "m.hgs"
            higgsx.compress(folder, made[name], **QUICK)
        return made[name]

    return get


def test_run_writes_down_speech(run: Run, files: Callable[[str], Path]) -> None:
    file, clip = files("whisper-digits-2m"), trained("data") / "whisper-digits" / "test" / "000.wav"
    ran = run("run", file, "--audio", clip)
    assert ran.status == 0 and ran.out.split() == ["seven", "two", "two", "one"]
    assert "s of sound in" in ran.err
    found = run("run", file, "--audio", clip, "--json").json
    assert found["text"] == "seven two two one" and 2 < found["audio_s"] < 2.5


def test_run_turns_one_text_into_another(run: Run, files: Callable[[str], Path]) -> None:
    ran = run("run", files("g2p-bart-us"), "pass", "-n", "8")
    assert ran.status == 0 and ran.out.split() == ["P", "AE", "S"], "the prompt is not part of the answer"


def test_run_refuses_what_a_model_cannot_do(
    fails: Fails, files: Callable[[str], Path], tales_hgs: Path, tmp_path: Path
) -> None:
    digits, text = files("whisper-digits-2m"), tmp_path / "story.wav"
    text.write_text("Once upon a time")
    assert "give it a sound: --audio WAV" in fails(2, "run", digits, "hello")
    assert "not a wav file" in fails(1, "run", digits, "--audio", text)
    assert "no such" in fails(1, "run", digits, "--audio", tmp_path / "gone.wav").lower()
    assert "does not turn speech into text" in fails(2, "run", tales_hgs, "--audio", text)
    assert "a prompt and a sound" in fails(2, "run", digits, "hello", "--audio", text)
    assert "nothing to work on" in fails(2, "run", tales_hgs)
    assert "only for speech" in fails(2, "run", tales_hgs, "hello", "--language", "en")
    assert "does not work on a prompt" in fails(2, "run", files("encoder"), "hello")


def test_eval_takes_files_of_every_kind(run: Run, files: Callable[[str], Path], tmp_path: Path) -> None:
    words = trained("data") / "g2p-bart-us" / "test.tsv"
    found = run(
        "eval", files("g2p-bart-us"), f"words={words}", "--against", trained("g2p-bart-us"), "--windows", "1",
        "--no-floor", "--json",
    ).json  # fmt: skip
    assert found["kind"] == "pairs" and found["quality"][0]["items"] == 16
    lines = tmp_path / "lines.txt"
    lines.write_text("The dog ran.\nThe cat sat on the mat.\n")
    encoder = files("encoder")
    ran = run("eval", encoder, lines, "--against", encoder.parent / "model")
    assert ran.status == 0 and "cosine of texts mean" in ran.out
