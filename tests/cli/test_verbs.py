"""Every verb does what its line says, in words and as one JSON object."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folders import listing
from higgsx.cli.__main__ import VERBS

Run = Callable[..., Any]
Get = Callable[[str], Path]
QUICK = ("--bits", "5", "--allow", "gauss16,int8")


def test_compress(run: Run, tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    ran = run("compress", tiny("llama"), "-o", out, *QUICK, "--no-check", "--json")
    assert ran.status == 0
    assert ran.err == ""
    assert ran.json["bytes"] == out.stat().st_size
    assert ran.json["content_digest"] == run("inspect", tiny_hgs("llama"), "--json").json["content_digest"]
    ran = run("compress", tiny("llama"), "-o", out, *QUICK, "--no-check", "--force")
    assert ran.status == 0
    assert "times smaller" in ran.out
    assert "not measured (not asked for)" in ran.out
    assert out.read_bytes() == tiny_hgs("llama").read_bytes()


def test_file_is_named_after_the_model(
    run: Run, tiny: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("compress", tiny("llama"), *QUICK, "--no-check").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model.hgs"]


def test_plan(run: Run, tiny: Get, tmp_path: Path) -> None:
    ran = run("plan", tiny("gpt2"), *QUICK)
    assert ran.status == 0
    assert "transformer.h.0.attn.c_attn.weight" in ran.out
    assert "predicted loss" in ran.out
    assert "RAM" in ran.out
    found = run("plan", tiny("gpt2"), *QUICK, "--json").json
    assert found["plan"]["groups"]
    assert {"bits", "bytes", "predicted_loss", "peak_ram", "check_ram", "seconds"} <= found.keys()
    file = tmp_path / "plan.json"
    assert run("plan", tiny("gpt2"), *QUICK, "--sample", "--plan-file", file).status == 0
    written = file.read_bytes()
    assert "--force" in run("plan", tiny("gpt2"), *QUICK, "--plan-file", file).err
    assert file.read_bytes() == written
    out = tmp_path / "m.hgs"
    assert run("compress", tiny("gpt2"), "-o", out, "--plan-file", file, "--no-check").status == 0
    assert run("inspect", out, "--json").json["bits"] == pytest.approx(
        float(json.loads(written)["totals"]["bits"]), abs=1e-6
    )


def test_inspect(run: Run, tales_hgs: Path) -> None:
    ran = run("inspect", tales_hgs)
    assert "model.layers.3.mlp.down_proj.weight" in ran.out
    assert "not two-dimensional" in ran.out
    assert "KL mean" in ran.out
    found = run("inspect", tales_hgs, "--json").json
    assert found["content_digest"] in ran.out
    assert found["damage"]["measured"]
    assert found["bytes"] == tales_hgs.stat().st_size
    assert found["recipe"]["options"]["bits"] == "4.25"
    assert {row["why"] for row in found["tensors"]} == {"", "not two-dimensional"}


def test_inspect_says_why_a_tensor_is_exact(run: Run, tiny: Get, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    run("compress", tiny("gpt2"), "-o", out, "--bits", "16", "--keep", "*c_fc*", "--no-check")
    lines = [line for line in run("inspect", out).out.splitlines() if "c_fc.weight" in line]
    assert len(lines) == 2
    assert all(line.endswith("kept by --keep") for line in lines)


def test_verify(run: Run, tiny_hgs: Get, tmp_path: Path) -> None:
    assert run("verify", tiny_hgs("opt")).out == "intact: every byte is as it was written\n"
    assert run("verify", tiny_hgs("opt"), "--json").json["intact"] is True
    data = bytearray(tiny_hgs("opt").read_bytes())
    data[len(data) // 2] ^= 32
    path = tmp_path / "m.hgs"
    path.write_bytes(data)
    ran = run("verify", path)
    assert ran.status == 1
    assert ran.out.startswith("damaged: ")
    ran = run("verify", path, "--json")
    assert ran.status == 1
    assert ran.json["intact"] is False
    assert len(ran.json["damaged"]) == 1


def test_unpack(run: Run, tiny_hgs: Get, tmp_path: Path) -> None:
    ran = run("unpack", tiny_hgs("opt"), tmp_path / "plain", "--json")
    assert ran.status == 0
    assert ran.json["bytes"] > 0
    assert {"config.json", "model.safetensors"} <= listing(tmp_path / "plain").keys()
    assert "of weights" in run("unpack", tiny_hgs("opt"), tmp_path / "other").out


def test_run(run: Run, tales_hgs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("run", tales_hgs, "Once upon a time", "-n", "12")
    assert ran.status == 0
    assert ran.out.startswith("Once upon a time")
    assert "tokens/s" in ran.err
    found = run("run", tales_hgs, "Once upon a time", "-n", "12", "--json").json
    assert ran.out.rstrip("\n") == "Once upon a time" + found["text"]
    assert found["new_tokens"] <= 12
    assert {"time_to_first_token_s", "decode_tokens_per_s"} <= found.keys()
    drawn = [
        run("run", tales_hgs, "Once", "-n", "12", "--temperature", "1", "--seed", seed, "--json").json["text"]
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time"))
    assert run("run", tales_hgs, "-", "-n", "12", "--json").json["text"] == found["text"]


def test_chat_needs_a_template(fails: Callable[..., str], tales_hgs: Path) -> None:
    assert "no chat template" in fails(1, "chat", tales_hgs, as_json=False)


def test_eval(run: Run, tales: Path, tales_hgs: Path, tmp_path: Path) -> None:
    text = tmp_path / "story.txt"
    text.write_text("The cat sat in the sun and looked at the birds in the big tree. " * 40)
    words = ("eval", tales_hgs, "--against", tales, "--text", text, "--window", "64", "--windows", "4")
    found = run(*words, "--json").json
    assert {"mean", "median", "p90", "p99", "p999", "max"} <= found["kl"].keys()
    assert found["kl"]["mean"] > 0
    assert 0 < found["top1_agreement"] <= 1
    assert found["perplexity"].keys() >= {"original", "compressed"}
    assert found["noise_floor"]["kl"]["mean"] >= 0
    assert found["file"] == str(tales_hgs)
    ran = run(*words, "--text", f"again={text}", "--no-floor", "--dtype", "bf16")
    assert ran.status == 0
    assert "again" in ran.out
    assert "top-1 agreement" in ran.out
    assert run(*words, "--text", text).status == 2


def test_info(run: Run) -> None:
    found = run("info", "--json").json
    assert found["kernels"]
    assert all(kernel["reason"] for kernel in found["kernels"])
    assert "why" in run("info").out


@pytest.mark.parametrize("verb", VERBS)
def test_help_explains_every_option(verb: str, run: Run) -> None:
    ran = run(verb, "--help")
    assert ran.status == 0
    assert ran.err == ""
    lines = ran.out.split("options:")[1].splitlines()
    bare = [
        line
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.strip().startswith("-") and "  " not in line.strip() and not after.startswith("      ")
    ]
    assert bare == []


def test_help_and_version(run: Run) -> None:
    ran = run("--help")
    assert ran.status == 0
    for verb, text in VERBS.items():
        assert verb in ran.out
        assert text.split()[0] in ran.out
    assert run("--version").out.startswith("higgsx 0.")


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from higgsx.cli.__main__ import main\n"
        "for words in (['--help'], ['compress', '--help']):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(words)\n"
        "    print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "[]"
    assert "transformers" not in second


def test_a_terminal_that_lacks_characters(tales_hgs: Path) -> None:
    """`‖` and `±` of the damage table, written where only ASCII can be."""
    code = "import sys; from higgsx.cli.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(tales_hgs)],
        capture_output=True,
        timeout=120,
        env={"PATH": "", "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u2016" in done.stdout
