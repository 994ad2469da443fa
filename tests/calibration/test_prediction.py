"""What sensitivities predict, and what the model then loses: on the trained model that the package brings."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from higgsx.calibration.bends import ALIKE, COARSE, COARSE_ROWS, FINE, Point, _fitted, _parts, measure_bends
from higgsx.calibration.sensitivity import sensitivities
from higgsx.calibration.statistics import Bend, kind_of
from higgsx.fidelity.compare import compare
from higgsx.fidelity.report import Arithmetic
from higgsx.integrations.hf.model import HFModel
from higgsx.pipeline.survey import survey
from higgsx.source.hub import open_source
from higgsx.tasks import Wanted

MODE = Arithmetic("fp32", "fp32")


@pytest.fixture(scope="module")
def learned(tales: Path):
    source = open_source(str(tales))
    handle = HFModel.of(source)
    model = handle.materialise(torch.float32)
    batches = handle.batches(lambda: model, Wanted(2000, window=64, part="calibration")).all()
    items = {handle.names[item.name]: item for item in survey(source, handle) if not item.why and item.axes}
    axes = {name: item.axes for name, item in items.items()}
    found = sensitivities(model, handle.task, batches, axes, text="openings")
    yield handle, model, batches, items, found
    source.close()


@contextmanager
def noise(model, names, level):
    parameters = dict(model.named_parameters(remove_duplicate=False))
    generator = torch.Generator().manual_seed(0)
    before = {name: parameters[name].detach().clone() for name in names}
    for name, values in before.items():
        size = (level * values.square().mean(1, keepdim=True)).sqrt()
        parameters[name].data.add_(torch.randn(values.shape, generator=generator) * size)
    try:
        yield dict.fromkeys(names, level)
    finally:
        for name, values in before.items():
            parameters[name].data.copy_(values)


def test_white_noise_costs_what_is_predicted(learned) -> None:
    handle, model, batches, items, found = learned
    original = handle.materialise(torch.float32)
    kinds: dict[str, list[str]] = {}
    for name in items:
        kinds.setdefault(kind_of(name), []).append(name)
    assert len(kinds) > 5
    ratios = []
    for names in kinds.values():
        predicted = sum(found.loss(name, items[name].plain.matrix.inputs, 0.003) for name in names)
        with noise(model, names, 0.003):
            damage = compare(original, model, batches, arithmetic=MODE, text="openings", task=handle.task)
        ratios.append((damage.total.kl.mean.value or 0.0) / predicted)
    assert all(1 / 2.5 < ratio < 2.5 for ratio in ratios), ratios
    logs = [math.log(ratio) for ratio in ratios]
    assert abs(sum(logs) / len(logs)) < math.log(1.5), ratios


def test_bends_of_white_noise_are_small(learned) -> None:
    """The second order holds for it; and the weights come back as they were."""
    handle, model, batches, items, found = learned
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = {name: item.plain.matrix.inputs for name, item in items.items()}
    levels = {FINE: 0.003, COARSE: 0.03, COARSE_ROWS: 0.03}
    bends = measure_bends(
        model, handle.task, batches, found, inputs, lambda names, code: noise(model, names, levels[code])
    )
    assert set(bends) == set(items)
    assert all(0.5 <= one.factor <= 2 for one in bends.values())
    assert all(one.blocks == pytest.approx(one.rows, rel=1e-3, abs=1e-3) for one in bends.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_kind_whose_loss_is_not_a_number_has_no_bend(learned) -> None:
    handle, model, batches, items, found = learned
    inputs = {name: item.plain.matrix.inputs for name, item in items.items()}

    @contextmanager
    def coded(names, code):
        parameters = dict(model.named_parameters(remove_duplicate=False))
        before = {name: parameters[name].detach().clone() for name in names}
        for name in names:
            parameters[name].data.fill_(float("nan"))
        try:
            yield dict.fromkeys(names, 0.01)
        finally:
            for name, values in before.items():
                parameters[name].data.copy_(values)

    assert measure_bends(model, handle.task, batches, found, inputs, coded) == {}


def point(error: float, ratio: float, expected: float = 1.0) -> Point:
    return Point(error, expected, ratio * expected)


def test_bend_goes_through_what_was_measured() -> None:
    (bend,) = _fitted(point(0.01, 1.2), [point(0.1, 1.5)], [point(0.12, 3.0)])
    assert bend.of(0.01, False) == pytest.approx(1.2, rel=1e-3)
    assert bend.of(0.1, False) == pytest.approx(1.5, rel=1e-3)
    assert bend.of(0.12, True) == pytest.approx(3.0, rel=1e-3)
    assert _fitted(point(0.01, 1.1), [None], [None]) == [Bend(1.1, 0.0, 0.0)]
    (wild,) = _fitted(point(0.01, 50.0), [point(0.1, 900.0)], [None])
    assert (wild.factor, wild.blocks, wild.rows) == (2.0, 200.0, 200.0)


def test_parts_of_a_kind_have_one_factor_and_slopes_of_their_own() -> None:
    """The loud part decides what all lose together; the quiet one is ten times worse than it seems."""
    coarse, rows = [point(0.1, 1.0), point(0.1, 10.0, 0.01)], [point(0.12, 4.0), point(0.12, 8.0, 0.01)]
    loud, quiet = _fitted(point(0.01, 1.0), coarse, rows)
    assert loud.factor == quiet.factor == pytest.approx(1.0, rel=0.1)
    assert loud.of(0.1, False) == pytest.approx(1.0, rel=0.01)
    assert quiet.of(0.1, False) == pytest.approx(10.0, rel=0.01)
    assert loud.of(0.12, True) == pytest.approx(4.0, rel=0.01)
    assert quiet.of(0.12, True) == pytest.approx(8.0, rel=0.01)
    # a part of which nothing is known bends as all do
    known, unknown = _fitted(point(0.01, 1.0), [point(0.1, 1.5), None], [None, None])
    assert known == unknown != Bend()


def test_layers_of_unlike_sensitivity_are_measured_apart() -> None:
    weights = {"a": 10.0, "b": 1.0, "c": 9 * 10 / ALIKE / 9, "d": 0.9, "e": 1e-3, "f": 1e-9, "g": 0.0}
    assert _parts(list(weights), weights) == [["a", "c"], ["b", "d"], ["e"], ["f", "g"]]
    assert _parts(["x", "y"], {"x": 1.0, "y": 1.0}) == [["x", "y"]]


def test_a_layer_that_hides_behind_another_is_found(learned) -> None:
    """One of two like layers breaks under the coarse code by more than its size of error says."""
    handle, model, batches, items, found = learned
    kinds: dict[str, list[str]] = {}
    for name in items:
        kinds.setdefault(kind_of(name), []).append(name)
    inputs = {name: item.plain.matrix.inputs for name, item in items.items()}
    names = next(names for names in kinds.values() if len(names) > 1)
    loud, quiet = names[:2]
    shrunk = replace(found, r={loud: found.r[loud], quiet: found.r[quiet] * 1e-3})

    def coded(names, code):
        return noise(model, names, 0.003 if code == FINE else 0.03)

    bends = measure_bends(model, handle.task, batches, shrunk, inputs, coded)
    assert bends[quiet].of(0.03, False) > 5 * bends[loud].of(0.03, False)


def test_a_kind_is_a_place_in_every_layer() -> None:
    assert kind_of("a.3.b.12.weight") == kind_of("a.4.b.0.weight") != kind_of("a.4.c.0.weight")
