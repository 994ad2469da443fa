"""Channel scales: never worse than none in what is predicted, and what is predicted is what happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import higgsx
from folders import tensors_of
from higgsx.archive import Archive
from higgsx.calibration.channels import channel_scales, scaled
from higgsx.calibration.statistics import Statistics
from higgsx.transforms import channels

INPUTS = 64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(names: dict[str, int], loud: float = 30.0) -> tuple[Statistics, dict[str, tuple[Tensor, str]]]:
    """Weights of so many rows that read one activation, a few channels of which are loud."""
    x = normal(500, INPUTS, seed=1)
    x[:, ::16] *= loud
    weights, r, columns = {}, {}, {}
    for seed, (name, rows) in enumerate(names.items()):
        w = normal(rows, INPUTS, seed=seed + 2) * (0.1 + normal(rows, 1, seed=seed + 9).abs())
        g = normal(500, rows, seed=seed + 20) * (0.1 + normal(1, rows, seed=seed + 30).abs())
        weights[name] = w, "oi"
        r[name] = (g.square() * x.square().sum(1, keepdim=True)).mean(0).double()
        columns[name] = (x.square() * g.square().sum(1, keepdim=True)).mean(0).double()
    powers = {name: w.double().square().sum(1) for name, (w, _) in weights.items()}
    return Statistics(r, powers, 1_000_000, "nats per token", "", columns=columns), weights


def predicted(statistics: Statistics, name: str, rows: int, error: float) -> float:
    return statistics.loss(name, INPUTS, error)


def test_one_reader_gets_the_optimum_of_cauchy_and_schwarz() -> None:
    statistics, weights = made({"a": 200})
    found = channel_scales({"space": ["a"]}, statistics, weights)
    after = scaled(statistics, {"a": found["space"]}, weights)
    w = weights["a"][0].double()
    c, q = statistics.columns["a"], (statistics.r["a"] @ w.square())
    least = float((c * q).sqrt().sum() ** 2 / c.sum()) / INPUTS / 2
    assert least < 0.6 * statistics.weight("a", INPUTS)
    assert after.weight("a", INPUTS) == pytest.approx(least, rel=0.02)
    # nothing but the loud channels stands out
    steps = [channels.ALPHABET.index(letter) for letter in found["space"]]
    quiet = [step for place, step in enumerate(steps) if place % 16]
    assert min(steps[::16]) > max(quiet) and max(quiet) - min(quiet) <= 3


def test_readers_of_one_space_share_scales_and_none_loses_much() -> None:
    statistics, weights = made({"q": 160, "k": 32, "v": 32})
    found = channel_scales({"space": ["q", "k", "v"]}, statistics, weights)
    assert list(found) == ["space"] and len(found["space"]) == INPUTS
    after = scaled(statistics, dict.fromkeys("qkv", found["space"]), weights)
    assert all(after.weight(name, INPUTS) < 0.7 * statistics.weight(name, INPUTS) for name in "qkv")


def test_even_channels_stay_about_as_they_are() -> None:
    statistics, weights = made({"a": 300}, loud=1.0)
    found = channel_scales({"space": ["a"]}, statistics, weights)
    assert set(found["space"]) <= set("fgh")


def test_a_space_with_an_unknown_or_unused_reader_has_none() -> None:
    statistics, weights = made({"a": 20, "b": 20})
    known = replace(statistics, columns={"a": statistics.columns["a"]})
    assert channel_scales({"s": ["a", "b"], "t": ["a"]}, known, weights).keys() == {"t"}
    unused = replace(statistics, columns={**statistics.columns, "b": torch.zeros(INPUTS).double()})
    assert channel_scales({"s": ["a", "b"]}, unused, weights) == {}
    dead = statistics.columns["a"].clone()
    dead[3] = 0
    found = channel_scales({"t": ["a"]}, replace(statistics, columns={"a": dead}), weights)
    assert channels.scales(found["t"])[3] > 0.02  # given up by nobody
    few = replace(statistics, columns={"a": dead}, tokens=50)
    found = channel_scales({"t": ["a"]}, few, weights)
    assert channels.scales(found["t"])[3] > 0.5  # in so little it says nothing to be quiet


def test_what_little_material_hardly_uses_is_not_given_up() -> None:
    """Channels that speak once in fifty positions: thirty of them say little about which."""
    statistics, weights = made({"a": 200})
    x = normal(20_000, INPUTS, seed=5) * (normal(20_000, INPUTS, seed=6) > 2.05)
    every, some = x.double().square().mean(0), x[:30].double().square().mean(0)

    def elsewhere(tokens: int) -> float:
        """Of scales from a few positions on all of them, over that of none."""
        few = replace(statistics, columns={"a": some}, tokens=tokens)
        found = channel_scales({"space": ["a"]}, few, weights)["space"]
        all_ = replace(statistics, columns={"a": every})
        return scaled(all_, {"a": found}, weights).weight("a", INPUTS) / all_.weight("a", INPUTS)

    assert elsewhere(30) < 1.2
    assert elsewhere(1_000_000) > 2 * elsewhere(30)  # as if they were all there is


@pytest.mark.parametrize("layout", ["io", "eoi", "eio"])
def test_other_layouts_have_the_same_scales(layout: str) -> None:
    statistics, weights = made({"a": 40})
    plain = weights["a"][0]
    stack = {"io": plain.t(), "eoi": plain.view(4, 10, INPUTS)}
    other = stack["eoi"].transpose(1, 2) if layout == "eio" else stack[layout]
    one, two = (channel_scales({"s": ["a"]}, statistics, {"a": w}) for w in (weights["a"], (other, layout)))
    assert one == two
    a, b = (scaled(statistics, {"a": one["s"]}, {"a": w}) for w in (weights["a"], (other, layout)))
    torch.testing.assert_close(a.powers["a"], b.powers["a"])


def test_a_learned_file_holds_them_once_for_each_space_and_decodes(tales: Path, tmp_path: Path) -> None:
    """Readers of one activation have the same scales; decoding takes them out again."""
    file = tmp_path / "m.hgs"
    quick = {"allow": ("int8",), "gradients": True, "calibration_tokens": 512, "check": False}
    higgsx.compress(tales, file, bits=9, **quick)
    spaces: dict[str, set[str]] = {}
    original = tensors_of(tales)
    with Archive.open(file) as archive:
        for name, one in archive.tensors.items():
            transform = one.descriptor.transform
            if transform is None:
                continue
            spaces.setdefault(transform.space, set()).add(transform.scales)
            assert transform.scales, name
            want, got = original[name].float(), archive.decode(name).float()
            assert float((got - want).square().sum() / want.square().sum()) < 4e-4, name
    assert len(spaces) > 10 and all(len(scales) == 1 for scales in spaces.values())
