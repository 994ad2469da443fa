"""What compress, inspect, verify, unpack and load say about one file is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

import folders
import higgsx
from folders import FAMILIES, TIED, copy_of, tensors_of, tiny_folder, write_shards, write_tensors
from higgsx.archive import Archive
from higgsx.codecs.codebook import _cells

Get = Callable[[str], Path]
QUICK = {"bits": 5, "allow": ("gauss16", "int8"), "check": False}


def tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(3, folders.VOCABULARY, (2, 9), generator=generator)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens()).logits
    return found


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sizes_bits_and_digests(family: str, tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    out = tmp_path / "again.hgs"
    result = higgsx.compress(tiny(family), out, **QUICK)
    report = higgsx.inspect(out)
    assert out.read_bytes() == tiny_hgs(family).read_bytes()
    assert result.nbytes == report.size == out.stat().st_size
    assert result.bits == pytest.approx(report.bits, abs=1e-12)
    assert 4 < result.bits <= 5
    assert result.content_digest == report.content_digest == result.to_json()["content_digest"]
    assert higgsx.verify(out) == []
    matrices = [row for row in report.tensors if len(row.shape) >= 2]
    stated = 8 * sum(row.nbytes for row in matrices) / sum(torch.Size(row.shape).numel() for row in matrices)
    assert stated == pytest.approx(report.bits)
    assert all(row.why for row in report.tensors if len(row.shape) < 2)
    assert {row.name for row in report.tensors} == set(tensors_of(tiny(family)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_unpack_is_what_load_computes_with(family: str, tiny_hgs: Get, tmp_path: Path) -> None:
    higgsx.unpack(tiny_hgs(family), tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype="auto").eval()
    model, tokenizer = higgsx.load(tiny_hgs(family), packed=False)
    assert tokenizer is None
    ours, theirs = model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value.dtype == ours[name].dtype == torch.bfloat16
        assert torch.equal(value.view(torch.int16), ours[name].view(torch.int16)), name
    assert torch.equal(logits(model), logits(plain))
    head, embedding = plain.get_output_embeddings().weight, plain.get_input_embeddings().weight
    assert (head is embedding) == (family in TIED)
    mine = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (mine[0] is mine[1]) == (family in TIED)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_compressed_is_near_the_original(family: str, tiny: Get, tiny_hgs: Get) -> None:
    """Every tensor decodes to its own original, whatever its axes are called in the model."""
    originals = tensors_of(tiny(family))
    with Archive.open(tiny_hgs(family)) as archive:
        for name, stored in archive.tensors.items():
            decoded = archive.decode(name)
            error = (decoded.float() - originals[name].float()).square().sum()
            relative = float(error / originals[name].float().square().sum())
            assert decoded.shape == originals[name].shape
            assert relative == 0 if stored.descriptor.is_exact else 0 < relative < 0.02, name


@pytest.mark.parametrize("family", ["qwen2-tied", "gpt2"])
def test_shards_make_the_same_file(family: str, tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    folder = tiny_folder(family, tmp_path / "sharded", shards="40KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    result = higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    assert result.content_digest == higgsx.inspect(tiny_hgs(family)).content_digest


def test_threads_do_not_matter(tiny: Get, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    files = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            files.append(tmp_path / f"{threads}.hgs")
            higgsx.compress(tiny("llama"), files[-1], **QUICK)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len({file.read_bytes() for file in files}) == 1


def test_the_default_dtype_does_not_matter(tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    """A loader sets it for its own model while we encode; tables must not be remembered in it either."""
    _cells.cache_clear()
    torch.set_default_dtype(torch.bfloat16)
    try:
        higgsx.compress(tiny("llama"), tmp_path / "m.hgs", **QUICK)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (tmp_path / "m.hgs").read_bytes() == tiny_hgs("llama").read_bytes()


def test_copies_of_a_tie_are_stored_once(tiny: Get, tiny_hgs: Get, tmp_path: Path) -> None:
    """A checkpoint may hold both copies, in any order and any shard."""
    tensors = tensors_of(tiny("qwen2-tied"))
    name = "model.embed_tokens.weight"
    both = {**tensors, "lm_head.weight": tensors[name].clone()}
    whole = copy_of(tiny("qwen2-tied"), tmp_path / "whole")
    write_tensors(whole, both)
    shards = copy_of(tiny("qwen2-tied"), tmp_path / "shards")
    first = {"lm_head.weight": both["lm_head.weight"]}
    rest = {key: value for key, value in both.items() if key not in first}
    write_shards(
        shards, {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": rest}
    )
    results = [
        higgsx.compress(folder, tmp_path / f"{folder.name}.hgs", **QUICK) for folder in (whole, shards)
    ]
    assert results[0].content_digest == results[1].content_digest
    report = higgsx.inspect(results[0].path)
    assert report.ties == ((name, "lm_head.weight"),)
    assert "lm_head.weight" not in {row.name for row in report.tensors}
    assert results[0].bits == higgsx.inspect(tiny_hgs("qwen2-tied")).bits
    higgsx.unpack(results[0].path, tmp_path / "plain")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    model, _ = higgsx.load(results[0].path, packed=False)
    assert torch.equal(logits(model), logits(plain))


def test_copies_that_differ_are_refused(tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("qwen2-tied"), tmp_path / "model")
    tensors = tensors_of(folder)
    other = tensors["model.embed_tokens.weight"].clone()
    other[5, 7] += 1
    write_tensors(folder, {**tensors, "lm_head.weight": other})
    with pytest.raises(higgsx.errors.SourceError, match="ties two tensors.*tie_word_embeddings"):
        higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)


def test_tensors_that_the_model_does_not_know_travel_along(tiny: Get, tmp_path: Path) -> None:
    folder = copy_of(tiny("llama"), tmp_path / "model")
    extra = torch.arange(6.0).view(2, 3)
    write_tensors(folder, {**tensors_of(folder), "extra.table": extra, "extra.steps": torch.tensor(7)})
    higgsx.compress(folder, tmp_path / "m.hgs", **QUICK)
    rows = {row.name: row for row in higgsx.inspect(tmp_path / "m.hgs").tensors}
    assert "no such tensor" in rows["extra.table"].why
    higgsx.unpack(tmp_path / "m.hgs", tmp_path / "plain")
    back = tensors_of(tmp_path / "plain")
    assert torch.equal(back["extra.table"], extra)
    assert back["extra.steps"].item() == 7
    model, _ = higgsx.load(tmp_path / "m.hgs", packed=False)
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("family", ["gpt2-en-5m"])
def test_trained_models_of_other_families(family: str, tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "shared" / "models" / family
    if not folder.is_dir():
        pytest.skip("shared/models is not on this machine")
    result = higgsx.compress(folder, tmp_path / "m.hgs", bits=5, allow=("gauss16", "int8"))
    damage = result.damage.to_json()
    assert damage["measured"]
    assert 0 < damage["kl"]["mean"] < 0.2
    assert higgsx.verify(tmp_path / "m.hgs") == []
