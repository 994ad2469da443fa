"""Every kind of work, from a folder: its task, batches from nothing, gradients, compress with a check."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import higgsx
from higgsx.errors import ModelError, TextError, UsageError
from higgsx.fidelity.report import Damage
from higgsx.integrations.hf.model import HFModel
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import NO_LABEL, Wanted
from task_folders import MODELS, TALES, task_folder, trained

KINDS = {
    **dict.fromkeys(MODELS, ""),
    "encoder": "encoder",
    "hidden words": "labels",
    "kinds of texts": "labels",
    "pairs": "pairs",
    "image": "image",
    "outputs": "outputs",
    "speech": "speech",
    "language": "language",
}
LOGITS = {"labels", "pairs", "image", "speech", "language"}
Get = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Get:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind == "speech":
            return trained("whisper-digits-2m")
        if kind == "language":
            return TALES
        if kind not in made:
            made[kind] = task_folder(kind, tmp_path_factory.mktemp("model") / "model")
        return made[kind]

    return get


def handle_of(folder: Path) -> HFModel:
    return HFModel.of(Checkpoint.open(folder))


def drawn(handle: HFModel, part: Any = "check", most: int = 400, **more: Any) -> Any:
    model = handle.materialise(torch.float32)
    return model, handle.batches(lambda: model, Wanted(most, part=part, **more))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_batches_from_nothing(kind: str, folder: Get) -> None:
    handle = handle_of(folder(kind))
    task = handle.task
    assert task.kind == KINDS[kind] and handle.lacks is None
    assert task.outputs == ("logits" if task.kind in LOGITS else "vectors")
    model, batches = drawn(handle)
    assert batches.described and batches.all()
    with torch.no_grad():
        for batch in batches.all():
            rows, labels = task.call(model, batch), task.labels(batch)
            assert rows.dim() == 2 and len(rows) == len(labels) and labels.dtype == torch.int64
            assert task.tokens(batch) == int((labels != NO_LABEL).sum()) > 0
            assert rows.isfinite().all()
            assert int(labels.max()) < rows.shape[1]
            assert torch.equal(torch.cat(list(task.pieces(model, batch, 7))), rows) or kind == "language"
    again = drawn(handle)[1].all()
    other = drawn(handle, "calibration")[1].all()
    first = [task.call(model, members[0]).detach() for members in (batches.all(), again, other)]
    assert torch.equal(first[0], first[1]), "the same part is the same every time"
    assert first[0].shape != first[2].shape or not torch.equal(first[0], first[2]), "the parts differ"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_gradients_reach_the_inputs_of_every_layer(kind: str, folder: Get) -> None:
    handle = handle_of(folder(kind))
    model, batches = drawn(handle, most=60)
    model.requires_grad_(False)
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            output.retain_grad()
            seen[name] = output
            return output

        return hook

    used = [(name, one) for name, one in model.named_modules() if isinstance(one, (nn.Linear, nn.Conv1d))]
    hooks = [module.register_forward_hook(watch(name)) for name, module in used]
    task, batch = handle.task, batches.all()[0]
    rows = task.call(model, batch)
    labels = task.labels(batch)
    kept = labels != NO_LABEL
    if task.outputs == "logits":
        score = rows.log_softmax(1)[kept].gather(1, labels[kept][:, None]).sum()
    else:
        score = (rows[kept] * torch.randn(rows[kept].shape)).sum()
    score.backward()
    for hook in hooks:
        hook.remove()
    without = [name for name, output in seen.items() if output.grad is None or not output.grad.any()]
    # the bare picture model has a pooled output that its hidden states do not depend on
    assert len(seen) >= 4 and [name for name in without if "pooler" not in name] == []


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"language"}))
def test_compress_measures_and_evaluate_agrees(kind: str, folder: Get, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    result = higgsx.compress(folder(kind), out, bits=6, allow=("gauss16", "int8", "bf16"))
    damage = result.damage
    assert isinstance(damage, Damage), damage
    assert damage.kind == KINDS[kind] and damage.total.tokens > 0
    assert damage.total.broken_original == damage.total.broken_compressed == 0
    assert 0 < damage.total.loss.value < 0.1
    stored = higgsx.inspect(out).damage
    assert isinstance(stored, Damage) and stored.to_json() == damage.to_json()
    measured = higgsx.evaluate(out, folder(kind))
    assert measured.floor is not None and measured.total.unit == damage.total.unit
    assert 0 < measured.total.loss.value < 0.1
    higgsx.unpack(out, tmp_path / "plain")
    for extra in () if kind != "encoder" else ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "plain" / extra).is_file()
    same = higgsx.evaluate(out, tmp_path / "plain", dtype=torch.bfloat16, floor=False).total
    assert (same.kl.largest if same.vectors is None else same.vectors.error.largest) == 0


def test_text_of_an_encoder(folder: Get, tmp_path: Path) -> None:
    handle = handle_of(folder("encoder"))
    path = tmp_path / "lines.txt"
    path.write_text(
        "\n".join(f"The dog number {number} ran home. " + "Far. " * number for number in range(40))
    )
    model, batches = drawn(handle, path=path, most=10**6)
    every = batches.all()
    assert len(every) == 5 and every[0].inputs["input_ids"].shape[0] == 8
    assert every[-1].inputs["input_ids"].shape[1] <= 64, "cut to what the model takes"
    alone = model(every[0].inputs["input_ids"][:1, :5]).last_hidden_state
    assert alone.shape == (1, 5, 32)
    # a text gives the same vectors alone and among longer ones
    inputs = every[1].inputs
    length = int(inputs["attention_mask"][0].sum())
    assert length < inputs["input_ids"].shape[1]
    both = handle.task.call(model, every[1]).view(8, -1, 32)[0, :length]
    one = model(input_ids=inputs["input_ids"][:1, :length]).last_hidden_state[0]
    assert torch.allclose(both, one, atol=1e-5)
    parts = [drawn(handle, part, 10**6, path=path, shared=True)[1].all() for part in ("calibration", "check")]
    assert [len(part) for part in parts] == [4, 1]
    assert not torch.equal(parts[0][0].inputs["input_ids"][0, :9], parts[1][0].inputs["input_ids"][0, :9])


def test_hidden_words_are_hidden_and_asked_for(folder: Get) -> None:
    handle = handle_of(folder("hidden words"))
    batch = drawn(handle)[1].all()[0]
    labels = batch.labels.view(batch.inputs["input_ids"].shape)
    asked = labels != NO_LABEL
    assert 0 < int(asked.sum()) < int(batch.inputs["attention_mask"].sum()) / 4
    assert (batch.inputs["input_ids"][asked] == (handle.tokenizer().mask_token_id or 0)).all()


def test_pooling_is_what_the_folder_says(folder: Get, tmp_path: Path) -> None:
    place = task_folder("encoder", tmp_path / "model")
    assert handle_of(place).task.pooling == "mean"
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    assert handle_of(place).task.pooling == "first"


def test_pictures_that_cannot_be_read(folder: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = handle_of(folder("image"))
    with pytest.raises(TextError, match="no pictures there"):
        drawn(handle, path=tmp_path)
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(ModelError, match="no image processor"):
        drawn(handle, path=tmp_path)
    seeing = handle_of(seeing_folder(tmp_path / "model"))
    with pytest.raises(TextError, match="not a picture that can be read") as caught:
        drawn(seeing, path=tmp_path)
    assert "a.png" in str(caught.value)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(TextError, match="without Pillow"):
        drawn(handle, path=tmp_path)


def test_pictures_in_folders_by_class(tmp_path: Path) -> None:
    place = seeing_folder(tmp_path / "model")
    handle = handle_of(place)
    pictures = tmp_path / "pictures"
    for number in range(40):
        draw_picture(pictures / ("LABEL_1", "LABEL_3")[number % 2] / f"{number:02}.png", number)
    model, batches = drawn(handle, path=pictures)
    labels = torch.cat([batch.labels for batch in batches.all()])
    assert labels.tolist() == [1] * 20 + [3] * 20 and "by class" in batches.described
    pixels = torch.cat([batch.inputs["pixel_values"] for batch in batches.all()])
    assert pixels.shape == (40, 3, 16, 16)
    # the processor's mean and deviation of 0.5 make -1 to 1 of 0 to 255
    assert pixels.min() >= -1 and pixels.max() <= 1 and pixels[0, 0, 0, 0] == 0 / 127.5 - 1
    result = higgsx.compress(place, tmp_path / "m.hgs", bits=8, calibration=pictures, check_text=pictures)
    right = torch.cat([task_rows(handle, model, one).argmax(1) == one.labels for one in batches.all()])
    assert result.learned and isinstance(result.damage, Damage) and result.damage.total.tokens == 8
    (told,) = higgsx.evaluate(tmp_path / "m.hgs", place, pictures).quality
    assert told.name == "accuracy" and told.items == 40
    assert told.original.value == pytest.approx(float(right.float().mean()))


def test_pictures_without_classes_have_the_labels_of_the_original(tmp_path: Path) -> None:
    handle = handle_of(seeing_folder(tmp_path / "model"))
    draw_picture(tmp_path / "some" / "one.png", 3)
    draw_picture(tmp_path / "some" / "LABEL_2" / "two.png", 4)
    _, batches = drawn(handle, path=tmp_path / "some")
    assert "drawn from the original" in batches.described
    _, alone = drawn(handle, path=tmp_path / "some" / "one.png")
    assert len(alone.all()) == 1 and alone.all()[0].inputs["pixel_values"].shape[0] == 1
    with pytest.raises(TextError, match="2 pictures"):
        higgsx.compress(tmp_path / "model", tmp_path / "m.hgs", bits=8, calibration=tmp_path / "some")


def seeing_folder(place: Path) -> Path:
    """The tiny picture model with an image processor."""
    task_folder("image", place)
    half = [0.5, 0.5, 0.5]
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (place / "preprocessor_config.json").write_text(
        json.dumps(settings | {"image_mean": half, "image_std": half})
    )
    return place


def draw_picture(path: Path, seed: int) -> None:
    """Random colours; the first corner is black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(seed))
    colours[0, 0] = 0
    Image.fromarray(colours.to(torch.uint8).numpy()).save(path)


def task_rows(handle: HFModel, model: nn.Module, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return handle.task.call(model, batch)


def test_labels_of_pictures_are_drawn_from_the_model(folder: Get, tmp_path: Path) -> None:
    judge = handle_of(folder("image")).judge()
    model, batches = drawn(handle_of(folder("image")))
    assert judge is not None
    answers = [answer for batch in batches.all() for answer in judge.answers(model, batch)]
    labels = torch.cat([batch.labels for batch in batches.all()])
    assert len(answers) == len(labels) == 32
    assert {*answers} <= set(handle_of(folder("image")).config.id2label.values())


def test_a_model_that_nothing_is_known_of_takes_no_file(folder: Get, tmp_path: Path) -> None:
    out = tmp_path / "m.hgs"
    path = tmp_path / "t.txt"
    path.write_text("text")
    with pytest.raises(UsageError, match="nothing is known of what this model does"):
        higgsx.compress(folder("outputs"), out, check_text=path)
    assert not out.exists()


def test_a_folder_without_its_tokenizer_says_so(tmp_path: Path) -> None:
    place = task_folder("encoder", tmp_path / "model")
    (place / "tokenizer.json").unlink()
    (place / "tokenizer_config.json").unlink()
    assert handle_of(place).lacks == "the model has no tokenizer"
    result = higgsx.compress(place, tmp_path / "m.hgs", bits=6, allow=("int8", "gauss16"))
    assert "no tokenizer" in result.damage.to_json()["reason"]


def test_a_tokenizer_of_another_model_is_refused(folder: Get, tmp_path: Path) -> None:
    place = task_folder("encoder", tmp_path / "model")
    handle = handle_of(place)
    handle.config.vocab_size = 300
    with pytest.raises(TextError, match="token id that the model does not have"):
        handle.batches(nn.Identity, Wanted(100))
