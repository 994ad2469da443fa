"""What goes wrong outside of us: one clear line, the right exit code, nothing lost, nothing left."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from folders import copy_of, edit_config, listing, tensors_of, tiny_folder, write_tensors

Fails = Callable[..., str]
Get = Callable[[str], Path]
QUICK = ("--bits", "5", "--allow", "gauss16,int8", "--no-check")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.hgs"


@pytest.fixture
def compress(fails: Fails, out: Path) -> Callable[..., str]:
    """A compression that must fail and leave nothing."""

    def go(model: object, *words: object, status: int = 1) -> str:
        line = fails(status, "compress", model, "-o", out, *(words or QUICK))
        assert list(out.parent.iterdir()) == []
        return line

    return go


def test_unknown_model(compress: Callable[..., str], tmp_path: Path) -> None:
    assert "no such folder" in compress(tmp_path / "nowhere")
    assert "no such folder" in compress("nobody/no-such-model-here")
    assert "is a file" in compress(__file__)


def test_folder_without_weights(compress: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json" in compress(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "no weights" in compress(tmp_path / "empty")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"\x80")
    assert "convert" in compress(tmp_path / "empty")


def test_missing_shard(compress: Callable[..., str], tmp_path: Path) -> None:
    folder = tiny_folder("gpt2", tmp_path / "model", shards="100KB")
    sorted(folder.glob("model-*"))[0].unlink()
    assert "shard is missing" in compress(folder)


def test_quantized_model(compress: Callable[..., str], tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("llama"), tmp_path / "model")
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    assert "gptq" in compress(folder)


def test_incomplete_and_strange_models(compress: Callable[..., str], tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("llama"), tmp_path / "model")
    tensors = tensors_of(folder)
    write_tensors(folder, {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name})
    assert "missing" in compress(folder)
    write_tensors(folder, {**tensors, "model.norm.weight": torch.zeros(65)})
    assert "model.norm.weight" in compress(folder)
    write_tensors(folder, {**tensors, "none": torch.zeros(0, 4)})
    assert "none: an empty tensor" in compress(folder)
    write_tensors(folder, tensors)
    edit_config(folder, model_type="no_such_type")
    assert "no_such_type" in compress(folder)
    edit_config(folder, model_type="llama", auto_map={"AutoModel": "modeling.Evil"})
    assert "never run" in compress(folder)


def test_budget_below_the_minimum(compress: Callable[..., str], tiny: Get) -> None:
    assert "at least" in compress(tiny("llama"), "--size", "1KB")
    assert "bits" in compress(tiny("llama"), "--bits", "1")
    assert "at least" in compress(tiny("llama"), "--bits", "3", "--policy", "hybrid")


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        ("transformer.h.1.mlp.c_fc.weight", (13, 201), float("nan")),
        ("transformer.wte.weight", (95, 63), float("inf")),
        ("transformer.h.0.ln_1.bias", (7,), float("-inf")),
    ],
)
def test_weights_that_are_no_numbers(
    name: str, place: tuple[int, ...], value: float, compress: Callable[..., str], tiny: Get, tmp_path: Path
) -> None:
    folder = copy_of(tiny("gpt2"), tmp_path / "model")
    tensors = tensors_of(folder)
    tensors[name][place] = value
    write_tensors(folder, tensors)
    line = compress(folder)
    assert f"{name}[{', '.join(map(str, place))}]" in line
    assert str(value) in line


def test_one_bad_weight_among_many_is_found_while_encoding(
    compress: Callable[..., str], tales: Path, tmp_path: Path
) -> None:
    """Not in the sample of rows that the plan is made from."""
    folder = copy_of(tales, tmp_path / "model")
    tensors = tensors_of(folder)
    tensors["model.embed_tokens.weight"][2, 5] = float("nan")
    write_tensors(folder, tensors)
    assert "model.embed_tokens.weight[2, 5]" in compress(folder)


def test_output_exists(fails: Fails, tiny: Get, out: Path) -> None:
    out.write_text("mine")
    assert "--force" in fails(1, "compress", tiny("llama"), "-o", out, *QUICK)
    assert "folder" in fails(1, "compress", tiny("llama"), "-o", out.parent, *QUICK, "--force")
    assert listing(out.parent) == {"m.hgs": b"mine"}


def test_output_is_the_input(fails: Fails, tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("llama"), tmp_path / "model")
    link = tmp_path / "link.hgs"
    os.link(folder / "model.safetensors", link)
    before = listing(tmp_path)
    for path in (folder, folder / "m.hgs", folder / "model.safetensors", folder / "." / "x" / "m.hgs"):
        assert "own folder" in fails(1, "compress", folder, "-o", path, *QUICK, "--force")
    assert "one of the inputs" in fails(1, "compress", folder, "-o", link, *QUICK, "--force")
    assert listing(tmp_path) == before


def test_output_has_no_place(fails: Fails, tiny: Get, tmp_path: Path) -> None:
    assert "no such folder" in fails(1, "compress", tiny("llama"), "-o", tmp_path / "a" / "m.hgs", *QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--bits", "4", "--size", "1MB"),
        ("--bits", "-4"),
        ("--bits", "nan"),
        ("--bits", "many"),
        ("--size", "12"),
        ("--size", "-3MB"),
        ("--policy", "fancy"),
        ("--allow", "int7"),
        ("--keep", "no.such.*"),
        ("--method", "magic"),
        ("--max-damage", "-1"),
        ("--max-damage", "nan"),
        ("--max-damage", "0.1", "--no-check"),
        ("--unknown",),
        ("more",),
    ],
    ids=" ".join,
)
def test_wrong_usage(words: tuple[str, ...], compress: Callable[..., str], tiny: Get) -> None:
    compress(tiny("llama"), *words, status=2)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fly",),
        ("run",),
        ("run", "m.hgs", "x", "-n", "0"),
        ("run", "m.hgs", "x", "-n", "many"),
        ("run", "m.hgs", "x", "--temperature", "-1"),
        ("run", "m.hgs", "x", "--temperature", "nan"),
        ("eval", "m.hgs"),
        ("eval", "m.hgs", "--against", "x", "--window", "-3"),
        ("eval", "m.hgs", "--against", "x", "--windows", "0"),
        ("eval", "m.hgs", "--against", "x", "--dtype", "fp8"),
        ("info", "more"),
    ],
    ids=" ".join,
)
def test_wrong_usage_of_other_verbs(words: tuple[str, ...], fails: Fails) -> None:
    fails(2, *words)


def reading_verbs(path: Path, tales: Path, folder: Path) -> list[tuple[object, ...]]:
    return [
        ("inspect", path),
        ("verify", path),
        ("unpack", path, folder),
        ("run", path, "Once"),
        ("eval", path, "--against", tales),
    ]


@pytest.mark.parametrize("kind", ["absent", "folder", "empty", "cut", "safetensors", "text", "zip", "header"])
def test_no_file_to_read(kind: str, fails: Fails, tales: Path, tales_hgs: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.hgs"
    data = tales_hgs.read_bytes()
    content = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "safetensors": (tales / "model.safetensors").read_bytes(),
        "text": b"just some words\n" * 50,
        "zip": b"PK\x03\x04" + bytes(500),
        "header": data[:1000] + bytes([data[1000] ^ 1]) + data[1001:],
    }
    if kind == "folder":
        path.mkdir()
    elif kind in content:
        path.write_bytes(content[kind])
    before = listing(tmp_path)
    for words in reading_verbs(path, tales, tmp_path / "plain"):
        line = fails(1, *words)
        assert "m.hgs" in line
    assert "m.hgs" in fails(1, "chat", path, as_json=False)
    assert listing(tmp_path) == before
    assert not (tmp_path / "plain").exists()


def test_texts_that_cannot_be_measured_on(fails: Fails, tales: Path, tales_hgs: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    for content, words in ((b"", "empty"), (b"short", "too short"), (b"\xff\xff", "UTF-8")):
        text.write_bytes(content)
        assert words in fails(1, "eval", tales_hgs, "--against", tales, "--text", text)
        assert words in fails(1, "compress", tales, "-o", tmp_path / "m.hgs", "--check-text", text)
    assert "no such file" in fails(1, "eval", tales_hgs, "--against", tales, "--text", tmp_path / "absent")
    assert list(tmp_path.iterdir()) == [text]


def test_another_model_to_compare_with(fails: Fails, tales: Path, tales_hgs: Path, tmp_path: Path) -> None:
    folder = copy_of(tales, tmp_path / "other")
    tensors = tensors_of(folder)
    table = tensors["model.embed_tokens.weight"]
    for count in (1100, 1000):
        write_tensors(folder, {**tensors, "model.embed_tokens.weight": torch.cat([table, table])[:count]})
        edit_config(folder, vocab_size=count)
        assert "made of another model" in fails(1, "eval", tales_hgs, "--against", folder)


def test_prompt_without_words(fails: Fails, tales_hgs: Path) -> None:
    assert "prompt" in fails(1, "run", tales_hgs, "")


def test_damage_above_the_limit(compress: Callable[..., str], fails: Fails, tales: Path, out: Path) -> None:
    words = ("--bits", "4.25", "--allow", "gauss16", "--max-damage", "0.000001")
    line = fails(1, "compress", tales, "-o", out, *words, as_json=False)
    assert "m.rejected.hgs" in line
    assert "above the allowed" in line
    assert [path.name for path in out.parent.iterdir()] == ["m.rejected.hgs"]


CODE = "import sys; from higgsx.cli.__main__ import main; sys.exit(main(sys.argv[1:]))"


def child(*words: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_disk_full(tales: Path, out: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    ran = child("compress", tales, "-o", out, *QUICK, "--json", preexec_fn=small_files_only)
    stdout, stderr = ran.communicate(timeout=300)
    assert ran.returncode == 1, stderr
    assert json.loads(stdout)["error"]["code"] == "FULL"
    assert "disk is full" in stderr
    assert "Traceback" not in stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_while_encoding(tmp_path: Path, out: Path, sent: int, status: int) -> None:
    """Large enough that encoding takes a while; the hidden file shows that it has begun."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4}
    model = tiny_folder("llama", tmp_path / "model", **sizes)
    words = ("compress", model, "-o", out, "--bits", "5.2", "--allow", "gauss32", "--no-check")
    # a shell that runs the tests in the background makes its children ignore Ctrl-C
    ran = child(*words, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    end = time.monotonic() + 240
    while not list(out.parent.iterdir()) and ran.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    ran.send_signal(sent)
    stdout, stderr = ran.communicate(timeout=120)
    assert ran.returncode == status, (stdout, stderr)
    assert stderr == ("higgsx: interrupted; nothing was left behind\n" if sent == signal.SIGINT else "")
    assert list(out.parent.iterdir()) == []
