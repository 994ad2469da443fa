"""A file opened in the lean decoder writes what transformers writes, and needs neither it nor torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from zoo import random_folder

import higgsx
from folders import edit_config
from higgsx.cli.__main__ import main
from higgsx.errors import MemoryBudgetError, ModelError, TextError, UsageError
from higgsx.integrations.hf import generate as through
from higgsx.runtime import memory
from higgsx.runtime.lean import Lean, open_lean
from higgsx.runtime.settings import Settings

Get = Callable[[str], Path]
PROMPT = "Once upon a time there was a"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
QUICK = {"bits": 5, "allow": ("gauss16", "int8"), "check": False}
pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture
def lean(tales_hgs: Path) -> Lean:
    return open_lean(tales_hgs, precision="float", cache="f32")


@pytest.fixture(scope="module")
def talking(tales: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with a chat template."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    shutil.copytree(tales, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    path = folder.parent / "m.hgs"
    higgsx.compress(folder, path, **QUICK)
    return path


@pytest.mark.parametrize(
    "settings",
    [
        Settings(max_tokens=60),
        Settings(max_tokens=40, repetition_penalty=1.3),
        Settings(max_tokens=40, stop=("and", ".")),
        Settings(max_tokens=5, logprobs=3),
    ],
    ids=str,
)
def test_the_same_text_as_through_transformers(lean: Lean, tales_hgs: Path, settings: Settings) -> None:
    model, tokenizer = higgsx.load(tales_hgs, dtype=torch.float32, packed=False)
    wanted = through.generate(model, tokenizer, PROMPT, settings=settings)
    found = lean.generate(PROMPT, settings)
    assert found.text == wanted.text
    assert found.ids == wanted.ids
    assert (found.ended, found.prompt_tokens) == (wanted.ended, wanted.prompt_tokens)
    assert len(found.logprobs) == len(wanted.logprobs)
    for ours, theirs in zip(found.logprobs, wanted.logprobs, strict=True):
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)
        assert [one[:2] for one in ours.likeliest] == [one[:2] for one in theirs.likeliest]


def test_pieces_add_up(lean: Lean) -> None:
    told: list[str] = []
    done = lean.generate(PROMPT, max_tokens=30, on_text=told.append)
    assert "".join(told) == done.text == "".join(lean.stream(PROMPT, max_tokens=30))
    assert done.text.startswith(" ")
    assert len(told) > 5
    assert done.new_tokens == len(done.ids) == 30
    assert done.first > 0
    assert done.rest > 0


def test_stop_text_as_one_word(lean: Lean) -> None:
    done = lean.generate(PROMPT, max_tokens=100, stop=".")
    assert done.ended == "stop"
    assert "." not in done.text
    assert done.text + "." == lean.generate(PROMPT, max_tokens=done.new_tokens).text[: len(done.text) + 1]


def test_tokens_instead_of_text(lean: Lean) -> None:
    assert lean.tokenizer is not None
    ids = lean.tokenizer.encode(PROMPT)
    assert lean.generate(ids, max_tokens=9).ids == lean.generate(PROMPT, max_tokens=9).ids
    with pytest.raises(TextError, match="no tokens"):
        lean.generate([])


def test_a_full_context_ends_the_answer(tales_hgs: Path) -> None:
    lean = open_lean(tales_hgs, context=20)
    done = lean.generate(PROMPT, max_tokens=100)
    assert done.ended == "context"
    assert done.prompt_tokens + done.new_tokens == 21
    with pytest.raises(TextError, match="too long"):
        lean.generate(PROMPT * 5)


def test_several_texts_at_once(tales_hgs: Path) -> None:
    prompts = [PROMPT, "The dog", "One day a girl and her cat went out to play. Then", "Sun"]
    alone = open_lean(tales_hgs)
    together = open_lean(tales_hgs, sequences=4)
    for settings in (Settings(max_tokens=25), Settings(max_tokens=25, temperature=0.9, seed=4, stop=("he",))):
        found = together.generate_all(prompts, settings)
        for prompt, one in zip(prompts, found, strict=True):
            wanted = alone.generate(prompt, settings)
            assert (one.text, one.ids, one.ended) == (wanted.text, wanted.ids, wanted.ended)
    with pytest.raises(TextError, match="at most 4"):
        together.generate_all([*prompts, "x"])


def test_seeds(lean: Lean) -> None:
    def drawn(seed: int) -> str:
        return lean.generate(PROMPT, max_tokens=20, temperature=1.0, seed=seed).text

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_conversation_computes_what_is_new(talking: Path) -> None:
    lean = open_lean(talking, precision="float", cache="f32")
    chat = lean.chat("A tale.")
    first = chat.say("Once", settings=Settings(max_tokens=12))
    second = chat.say("and then", settings=Settings(max_tokens=12))
    assert first.reused == 0
    assert second.reused > first.prompt_tokens - 2
    assert second.prompt_tokens > second.reused
    model, tokenizer = higgsx.load(talking, dtype=torch.float32, packed=False)
    other = through.Chat(model, tokenizer, "A tale.")
    assert other.say("Once", settings=Settings(max_tokens=12)).text.lstrip() == first.text.lstrip()
    assert other.say("and then", settings=Settings(max_tokens=12)).ids == second.ids


def test_load(tales_hgs: Path, tmp_path: Path) -> None:
    engine, tokenizer = higgsx.load(tales_hgs, runtime=True, context=64, threads=1, verify=True)
    assert isinstance(engine, Lean)
    assert engine.tokenizer is tokenizer
    assert (engine.context, engine.threads) == (64, 1)
    with pytest.raises(UsageError):
        higgsx.load(tales_hgs, context=64)
    with pytest.raises(UsageError):
        higgsx.load(tales_hgs, runtime=True, packed=True)
    folder = random_folder("llama", tmp_path / "model")
    edit_config(folder, something_new=3)
    higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    with pytest.raises(ModelError, match="something_new"):
        higgsx.load(tmp_path / "m.hgs", runtime=True)
    model, _ = higgsx.load(tmp_path / "m.hgs")
    assert model.config.model_type == "llama"


def test_a_file_without_a_tokenizer(zoo_hgs: Get) -> None:
    lean = open_lean(zoo_hgs("llama"))
    assert lean.tokenizer is None
    assert lean.generate([5, 6, 7], max_tokens=3).new_tokens <= 3
    with pytest.raises(TextError, match="no tokenizer"):
        lean.generate("text")
    with pytest.raises(TextError, match="no chat template"):
        lean.chat()


def test_a_tokenizer_of_another_kind(tales: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tales, folder)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    with pytest.raises(ModelError, match=r"tokenizer\.json") as caught:
        open_lean(tmp_path / "m.hgs")
    assert caught.value.code == "FAMILY"


def test_arrays_outlive_the_file(lean: Lean) -> None:
    wanted = lean.generate(PROMPT, max_tokens=5).ids
    lean.close()
    lean.reset()
    assert lean.generate(PROMPT, max_tokens=5).ids == wanted


def test_neither_torch_nor_transformers(tales_hgs: Path, talking: Path) -> None:
    code = (
        "import sys\n"
        "from higgsx.cli.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'scipy', 'psutil', 'safetensors', 'huggingface_hub'}\n"
        "print('\\nLOADED', status, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    for words in (("run", tales_hgs, PROMPT, "-n", "5", "--json"), ("chat", talking, "-n", "5")):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            input="Hello\n", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "LOADED 0 []" in done.stderr
    code = "import sys, higgsx; higgsx.load(sys.argv[1], runtime=True); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tales_hgs)], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert main(["run", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_command_line_says_what_ran(tales_hgs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = run(capsys, tales_hgs, PROMPT, "-n", 9, "--context", 64, "--threads", 1, "--precision", "float")
    assert ours["engine"] == "lean"
    assert (ours["context"], ours["threads"], ours["precision"]) == (64, 1, "float")
    assert ours["start_to_first_token_s"] > ours["time_to_first_token_s"] > 0
    assert {"load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "memory", "ended"} <= ours.keys()
    other = run(capsys, tales_hgs, PROMPT, "-n", 9, "--transformers", "--no-packed")
    assert other["engine"] == "transformers"
    assert "--transformers" in other["why"]
    assert other["text"] == ours["text"]
    assert {"load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "state"} <= other.keys()
    assert main(["run", str(tales_hgs), PROMPT, "-n", "2", "-v"]) == 0
    assert "engine: lean (family llama)" in capsys.readouterr().err


def test_options_of_the_command_line(tales_hgs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, tales_hgs, PROMPT, "-n", 30, "--stop", ".", "--stop", ",", "--logprobs", 2)
    assert found["ended"] == "stop"
    assert len(found["logprobs"]) == found["new_tokens"]
    assert len(found["logprobs"][0]["likeliest"]) == 2
    drawn = ("--temperature", 1, "--min-p", 0.2, "--repetition-penalty", 1.2, "--seed", 7)
    assert run(capsys, tales_hgs, PROMPT, *drawn)["text"] == run(capsys, tales_hgs, PROMPT, *drawn)["text"]
    assert main(["run", str(tales_hgs), PROMPT, "--logprobs", "2"]) == 2
    assert main(["run", str(tales_hgs), PROMPT, "--transformers", "--context", "9"]) == 2
    assert main(["run", str(tales_hgs), PROMPT, "--context", "9999"]) == 2
    assert main(["run", str(tales_hgs), PROMPT, "--context", "4"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("higgsx: ") for line in errors)


def test_without_the_library(tales_hgs: Path) -> None:
    words = [sys.executable, "-m", "higgsx.cli", "run", str(tales_hgs), PROMPT, "-n", "3", "--json"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=120, env={**os.environ, "HIGGSX_LIBRARY": os.devnull}
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["engine"] == "transformers"
    assert "no native kernels" in found["why"]


def test_too_little_memory_is_an_error_and_not_another_way(
    tales_hgs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    with pytest.raises(MemoryBudgetError):
        higgsx.load(tales_hgs, runtime=True)
    assert main(["run", str(tales_hgs), PROMPT, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "MEMORYBUDGET"
