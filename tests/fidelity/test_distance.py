"""Hidden states of two models: relative squared error and cosine; their record."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from higgsx.errors import ModelError
from higgsx.fidelity.compare import compare
from higgsx.fidelity.distance import Distance
from higgsx.fidelity.figures import Estimate
from higgsx.fidelity.gate import FAR, SMALL, gate
from higgsx.fidelity.quality import Quality
from higgsx.fidelity.render import render
from higgsx.fidelity.report import Arithmetic, Damage, damage_from_json
from higgsx.tasks import NO_LABEL, Example, TextVectors

MODES = Arithmetic("weights fp32, arithmetic fp32", "weights fp32, arithmetic fp32")


def figures(p, q, labels=None):
    found = Distance()
    found.begin_window()
    found.add(p, q, torch.zeros(len(p), dtype=torch.int64) if labels is None else labels)
    return found.figures()


def test_figures_are_the_definitions():
    p, q = torch.randn(50, 8), torch.randn(50, 8)
    labels = torch.where(torch.arange(50) % 3 == 0, NO_LABEL, 0)
    kept = labels == 0
    vectors = figures(p, q, labels).vectors
    error = (p - q).pow(2).sum(1) / p.pow(2).sum(1)
    cosine = torch.nn.functional.cosine_similarity(p, q)
    assert vectors.error.mean.value == pytest.approx(float(error[kept].mean()), rel=1e-5)
    assert vectors.error.largest == pytest.approx(float(error[kept].max()), rel=1e-5)
    assert vectors.cosine.value == pytest.approx(float(cosine[kept].mean()), abs=1e-5)
    assert vectors.least == pytest.approx(float(cosine[kept].min()), abs=1e-5)
    assert figures(p, q, labels).tokens == int(kept.sum())


def test_equal_vectors_lose_exactly_nothing_even_where_they_are_zero():
    p = torch.cat([torch.randn(5, 8), torch.zeros(2, 8)])
    found = figures(p, p.clone())
    assert found.tokens == 7 and found.vectors.error.largest == 0 and found.vectors.least == 1


def test_broken_vectors_are_counted_and_left_out():
    p, q = torch.randn(6, 4), torch.randn(6, 4)
    p[0, 1] = torch.nan
    q[1, 2] = torch.inf
    found = figures(p, q)
    assert (found.tokens, found.broken_original, found.broken_compressed) == (4, 1, 1)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ModelError, match="same shape"):
        figures(torch.zeros(3, 4), torch.zeros(3, 5))


class Encoder(nn.Module):
    def __init__(self, noise=0.0):
        super().__init__()
        torch.manual_seed(3)
        self.table, self.top = nn.Embedding(30, 12), nn.Linear(12, 12)
        with torch.no_grad():
            self.top.weight += noise * torch.randn(12, 12)

    def forward(self, input_ids, attention_mask):
        return self.top(self.table(input_ids))


def batch(seed):
    ids = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(7) < torch.tensor([[7], [4], [2]])).long()
    labels = torch.where(mask == 1, 0, NO_LABEL).flatten()
    return Example({"input_ids": ids, "attention_mask": mask}, labels)


@pytest.fixture
def damage() -> Damage:
    windows = {"a": [batch(0), batch(1)], "b": [batch(2)]}
    return compare(
        Encoder(),
        Encoder(0.1),
        windows,
        arithmetic=MODES,
        text="texts",
        task=TextVectors(),
        floor=Encoder(0.001),
    )


def test_compare_takes_vectors(damage):
    assert damage.kind == "encoder" and damage.longest == 21
    assert damage.total.tokens == 3 * 13 and damage.total.vectors.texts == 9
    assert damage.total.unit == "relative squared error"
    assert 0 < damage.floor.loss.value < 0.01 * damage.total.loss.value
    total = damage.total.vectors.error.mean.value
    parts = [damage.domains[name] for name in ("a", "b")]
    assert total == pytest.approx(sum(p.tokens * p.loss.value for p in parts) / damage.total.tokens)


def test_pooled_vectors_leave_padding_out():
    one = batch(0)
    model = Encoder()
    task = TextVectors()
    rows = task.call(model, one)
    alone = model(one.inputs["input_ids"][1:2, :4], None)[0].mean(0)
    assert torch.allclose(task.pooled(rows, one)[1], alone, atol=1e-6)
    assert torch.equal(TextVectors("first").pooled(rows, one), rows.view(3, 7, -1)[:, 0])
    assert torch.equal(TextVectors("last").pooled(rows, one)[1], rows.view(3, 7, -1)[1, 3])


def test_the_record_comes_back_and_is_read_by_programs_that_know_language_models_alone(damage):
    rate = Quality(
        "accuracy", 9, "what is right", Estimate(0.5, 0.1), Estimate(0.25, 0.1), Estimate(-0.25, 0.2)
    )
    damage = replace(damage, quality=(rate,))
    record = json.loads(json.dumps(damage.to_json(), allow_nan=False))
    back = damage_from_json(record)
    assert back.to_json() == damage.to_json()
    assert back.quality == (rate,) and back.kind == "encoder"
    assert record["vectors"]["cosine"]["mean"] < 1
    assert record["kl"]["mean"] is None and record["perplexity"]["original"] is None
    text = "\n".join(render(back))
    assert "relative error mean" in text and "cosine of texts mean" in text and "KL" not in text
    assert "50.00 ± 10.00 %" in text


def test_a_cosine_near_one_is_not_written_as_one(damage):
    near = replace(damage.total.vectors, cosine=Estimate(1 - 3e-8, 1e-9))
    record = replace(damage, total=replace(damage.total, vectors=near)).to_json()
    assert record["vectors"]["cosine"]["mean"] == 1 - 3e-8


def test_records_of_language_models_have_no_new_keys():
    class Reads(nn.Module):
        def forward(self, ids):
            return nn.functional.one_hot(ids, 9).float()

    record = compare(Reads(), Reads(), [torch.arange(9)[None]], arithmetic=MODES, text="t").to_json()
    assert not {"kind", "vectors", "quality"} & record.keys()


def test_the_limit_of_hidden_states_is_their_error(damage):
    loss = damage.total.loss.value
    assert gate(damage, predicted=1e-9, limit=None) is None, "a guess without data says nothing here"
    assert gate(damage, None, 2 * loss) is None
    assert "relative squared error is above the allowed" in gate(damage, None, loss / 100)


def test_predictions_from_data_hold_for_every_kind(damage):
    assert damage.total.loss.value > FAR * SMALL * 1.1
    assert "far beyond the predicted" in gate(damage, predicted=1e-9, learned=True)
    assert gate(damage, predicted=damage.total.loss.value / 2, learned=True) is None
