"""`plan`: the same plan as compress, plan files, and plans of models that are not there to be read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import higgsx
from folders import copy_of, listing, sparse_file, tensors_of, write_tensors
from higgsx.errors import BudgetError, UsageError

Get = Callable[[str], Path]
QUICK = {"bits": 5, "allow": ("gauss16", "int8")}


@pytest.fixture
def plan_file(tiny: Get, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    higgsx.plan(tiny("llama"), **QUICK, sample=True, plan_file=path)
    return path


def edited(path: Path, change: Callable[[dict], object]) -> Path:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sampled_plan_is_the_plan_of_compress(family: str, tiny: Get, tmp_path: Path) -> None:
    forecast = higgsx.plan(tiny(family), **QUICK, sample=True)
    result = higgsx.compress(tiny(family), tmp_path / "m.hgs", **QUICK, check=False)
    assert forecast.plan == result.plan
    assert forecast.size == result.nbytes
    assert forecast.source_bytes == result.source_bytes
    assert forecast.to_json()["predicted_loss"] == result.to_json()["predicted_loss"] > 0


def test_unsampled_plan_reads_no_weights(tiny: Get, tmp_path: Path) -> None:
    """The same plan for other weights of the same shapes; the files are not touched."""
    folder = copy_of(tiny("llama"), tmp_path / "model")
    before = listing(tmp_path)
    first = higgsx.plan(folder, bits=4)
    assert listing(tmp_path) == before
    write_tensors(folder, {name: tensor.flip(0) * 3 for name, tensor in tensors_of(folder).items()})
    second = higgsx.plan(folder, bits=4)
    assert first.plan.choices == second.plan.choices
    assert first.size == second.size
    assert not first.sampled
    text = "\n".join(first.summary())
    assert "guess" in text
    assert "RAM" in text


def test_plan_file_makes_the_same_file(plan_file: Path, tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    result = higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=plan_file, check=False)
    direct = higgsx.inspect(tiny_hgs("llama"))
    followed = higgsx.inspect(tmp_path / "m.hgs")
    assert [(row.name, row.code, row.nbytes) for row in followed.tensors] == [
        (row.name, row.code, row.nbytes) for row in direct.tensors
    ]
    assert float(result.plan.bits) == direct.bits


def test_edited_label(plan_file: Path, tiny: Get, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"

    def change(data: dict) -> None:
        data["budget"] = None
        next(group for group in data["groups"] if group["name"] == name)["label"] = "int8.b64"

    higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=edited(plan_file, change), check=False)
    rows = {row.name: row for row in higgsx.inspect(tmp_path / "m.hgs").tensors}
    assert rows[name].code == "int8.b64"
    assert rows["model.layers.1.self_attn.k_proj.weight"].code != "int8.b64"


def test_edited_parameters_beyond_the_palette(plan_file: Path, tiny: Get, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"

    def change(data: dict) -> None:
        data["budget"] = None
        group = next(group for group in data["groups"] if group["name"] == name)
        group["params"]["codec"] = "uniform"
        group["params"]["params"] = {
            "bits": 3, "block": 32, "scale": "f16", "zero": "min", "centre": 0, "exponent": 0
        }  # fmt: skip

    result = higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=edited(plan_file, change), check=False)
    rows = {row.name: row for row in higgsx.inspect(tmp_path / "m.hgs").tensors}
    assert rows[name].code == "int3.b32.f16.min"
    choice = next(choice for choice in result.plan.choices if choice.name == name)
    assert choice.nbytes == rows[name].nbytes
    assert choice.loss > 0
    assert higgsx.verify(tmp_path / "m.hgs") == []


def test_edit_over_the_budget(plan_file: Path, tiny: Get, tmp_path: Path) -> None:
    def change(data: dict) -> None:
        for group in data["groups"]:
            group["label"] = "exact"

    with pytest.raises(BudgetError, match="over its budget"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=edited(plan_file, change), check=False)
    assert list(tmp_path.iterdir()) == [plan_file]


def test_fixed_part_of_a_size_is_not_believed(tiny: Get, tmp_path: Path) -> None:
    """Whoever edits `fixed` away still gets a file that keeps to the size."""
    path, size = tmp_path / "plan.json", 260_000
    forecast = higgsx.plan(tiny("llama"), size=size, allow=("int8", "gauss16"), sample=True, plan_file=path)
    assert forecast.size <= size

    def change(data: dict) -> None:
        data["budget"]["fixed"] = 0
        data["budget"]["limit"] = str(forecast.plan.stored)

    with pytest.raises(BudgetError, match="over its budget"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=edited(path, change), check=False)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[]", "not an object"),
        ("{", "not JSON"),
        ('{"version": 0}', "missing"),
        ('{"version": 0.5}', "whole number"),
        ("\x00\x01", "not JSON"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
)
def test_bad_plan_file(text: str, complaint: str, tiny: Get, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["groups"][0].update(label="int9.b7"),
        lambda data: data["groups"].pop(),
        lambda data: data["groups"][0].update(name="elsewhere.weight"),
        lambda data: data["groups"][0]["params"].update(codec="zip"),
        lambda data: data["groups"][0]["params"]["params"].update(block=-32),
        lambda data: data["groups"][0]["params"].pop("axes"),
        lambda data: data["groups"][0].update(members=["other.weight"]),
        lambda data: data.update(version=7),
        lambda data: data["budget"].update(limit="-1"),
    ],
    ids=["label", "group missing", "group unknown", "codec", "block", "axes", "members", "version", "limit"],
)
def test_plan_file_that_does_not_fit(
    change: Callable[[dict], object], plan_file: Path, tiny: Get, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=edited(plan_file, change), check=False)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [plan_file]


def test_plan_of_another_model(plan_file: Path, tiny: Get, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown group"):
        higgsx.compress(tiny("gpt2"), tmp_path / "m.hgs", plan=plan_file, check=False)


def test_plan_and_budget_contradict(plan_file: Path, tiny: Get, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="own budget"):
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", plan=plan_file, bits=4)


def test_the_output_may_not_be_the_plan(plan_file: Path, tiny: Get) -> None:
    before = plan_file.read_bytes()
    with pytest.raises(higgsx.errors.StorageError, match="one of the inputs"):
        higgsx.compress(tiny("llama"), plan_file, plan=plan_file, check=False, force=True)
    assert plan_file.read_bytes() == before


def test_fifty_billion_parameters(tmp_path: Path) -> None:
    """Headers only: sparse shards of 104 GB, planned in a process that stays small and writes nothing."""
    hidden, inner, layers, vocabulary, kv = 8192, 24576, 66, 64000, 1024
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": vocabulary, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    per_layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shards: list[dict[str, tuple[int, ...]]] = [
        {"model.embed_tokens.weight": (vocabulary, hidden)},
        *(
            {f"model.layers.{n}.{name}.weight": shape for name, shape in per_layer.items()}
            for n in range(layers)
        ),
        {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)},
    ]
    where = {}
    weights = 0
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        sizes = {name: shape[0] * (shape[1] if len(shape) > 1 else 1) for name, shape in shapes.items()}
        weights += sum(sizes.values())
        sparse_file(tmp_path / file, {name: ("BF16", shapes[name], 2 * size) for name, size in sizes.items()})
        where |= dict.fromkeys(shapes, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert weights > 50e9
    names = sorted(path.name for path in tmp_path.iterdir())
    code = (
        "import json, resource, sys; from higgsx.cli.__main__ import main\n"
        "status = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "plan", str(tmp_path), "--bits", "4.25", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert int(done.stderr.split()[-1]) * 1024 < 1.5e9
    assert 4.24 < found["bits"] <= 4.25
    assert 4.25 < 8 * found["bytes"] / weights < 4.3
    assert found["source_bytes"] == 2 * weights
    assert found["seconds"] > 60
    assert found["peak_ram"] < 2e9 < found["check_ram"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
