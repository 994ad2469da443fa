"""The damage record to JSON and back, as text, and the gate."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

from higgsx.errors import FormatError
from higgsx.fidelity.divergence import Divergence
from higgsx.fidelity.figures import Estimate
from higgsx.fidelity.gate import DOUBTFUL, FAR, SMALL, doubt, gate
from higgsx.fidelity.render import number, percent, render, with_error
from higgsx.fidelity.report import Arithmetic, Damage, NotMeasured, damage_from_json


def some_figures(noise, rows=300):
    generator = torch.Generator().manual_seed(rows)
    p = 3 * torch.randn(rows, 90, generator=generator)
    q = p + noise * torch.randn(rows, 90, generator=generator)
    part = Divergence()
    for begin in range(0, rows, 50):
        part.begin_window()
        labels = torch.randint(0, 90, (50,), generator=generator)
        part.add(p[begin : begin + 50], q[begin : begin + 50], labels)
    return part.figures()


@pytest.fixture
def damage():
    return Damage(
        total=some_figures(0.3),
        arithmetic=Arithmetic("weights fp32, arithmetic fp32", "weights bf16, arithmetic fp32", "bf16"),
        text="openings continued by the model itself",
        longest=51,
        domains={"English": some_figures(0.2, 200), "code": some_figures(0.4, 100)},
        floor=some_figures(0.001),
    )


def with_kl(damage, mean, error=0.0):
    spread = replace(damage.total.kl, mean=Estimate(mean, error))
    return replace(damage, total=replace(damage.total, kl=spread))


def test_json_has_the_promised_keys(damage):
    record = json.loads(json.dumps(damage.to_json(), allow_nan=False))
    total = damage.total
    assert record["kl"]["mean"] == pytest.approx(total.kl.mean.value, rel=1e-5)
    assert record["kl"]["p99"] == pytest.approx(total.kl.p99, rel=1e-5)
    assert record["top1_agreement"] == pytest.approx(total.top1.value, rel=1e-5)
    assert record["perplexity"]["original"] == pytest.approx(total.original.value, rel=1e-5)
    assert record["perplexity"]["compressed"] == pytest.approx(total.compressed.value, rel=1e-5)
    assert record["domains"]["code"]["kl"]["mean"] == pytest.approx(
        damage.domains["code"].kl.mean.value, rel=1e-5
    )
    assert record["noise_floor"]["kl"]["mean"] == pytest.approx(damage.floor.kl.mean.value, rel=1e-5)
    assert record["arithmetic"]["compressed"] == "weights bf16, arithmetic fp32"


def test_json_round_trip(damage):
    record = json.loads(json.dumps(damage.to_json()))
    again = damage_from_json(record)
    assert again.to_json() == record
    assert isinstance(again, Damage) and again.total.tokens == 300 and again.floor is not None
    bare = replace(damage, domains={}, floor=None, arithmetic=Arithmetic("a", "b"))
    assert damage_from_json(bare.to_json()).to_json() == bare.to_json()


def test_a_record_with_ten_domains_fits_its_place_in_the_file(damage):
    many = replace(damage, domains={f"domain {index}": damage.total for index in range(10)})
    assert len(json.dumps(many.to_json())) < 32 * 1024


def test_empty_figures_are_null_and_come_back(damage):
    empty = replace(damage, total=Divergence().figures(), domains={}, floor=None)
    record = json.loads(json.dumps(empty.to_json(), allow_nan=False))
    assert record["kl"]["mean"] is None
    assert damage_from_json(record) == empty
    assert render(empty)


def test_not_measured_round_trip():
    nothing = NotMeasured("needs 7.2 GB")
    assert damage_from_json(nothing.to_json()) == nothing
    assert render(nothing) == ["damage: not measured (needs 7.2 GB)"]
    assert gate(nothing, 0.01) is None


def paths(value, at=()):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*at, key)
            yield from paths(inner, (*at, key))


def test_every_wrong_value_is_a_typed_error_or_harmless(damage):
    record = damage.to_json()
    for path in paths(record):
        for bad in (None, True, -1, "x", [], {}, [1], float("nan"), 10**400):
            changed = copy.deepcopy(record)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = bad
            try:
                lines = render(damage_from_json(changed))
            except FormatError:
                continue
            assert all(isinstance(line, str) and line.isprintable() for line in lines if line)


@pytest.mark.parametrize("value", [None, [], "text", 3, {}, {"measured": 1}, {"measured": True}])
def test_what_is_no_record_is_refused(value):
    with pytest.raises(FormatError, match="damage record"):
        damage_from_json(value)


def test_the_error_names_the_key(damage):
    record = damage.to_json()
    record["domains"]["code"]["kl"]["p99"] = "much"
    with pytest.raises(
        FormatError, match=r"damage record\.domains\.code\.kl\.p99: .*got str, expected a number"
    ):
        damage_from_json(record)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.012345, "0.0123"),
        (0.0999949, "0.100"),
        (0.00012, "0.000120"),
        (0.0000123, "1.23e-5"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (999.9, "1,000"),
        (12345.6, "12,300"),
        (123456789.0, "1.23e8"),
        (-0.0123, "-0.0123"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


def test_errors_stand_beside_their_figures():
    assert with_error(Estimate(0.012345, 0.000456)) == "0.0123 ± 0.00046"
    assert with_error(Estimate(0.012345, None)) == "0.0123"
    assert percent(Estimate(0.99974, 0.00012)) == "99.97 ± 0.01 %"
    assert percent(Estimate(None, None)) == "-"


def test_text_shows_every_part(damage):
    text = "\n".join(render(damage))
    head = next(line for line in render(damage) if "English" in line)
    assert [head.index(name) for name in ("all", "English", "code", "noise floor")] == sorted(
        head.index(name) for name in ("all", "English", "code", "noise floor")
    )
    for part in (damage.total, *damage.domains.values(), damage.floor):
        assert with_error(part.kl.mean) in text and percent(part.top1) in text
    assert "weights bf16, arithmetic fp32" in text and "BROKEN" not in text
    assert with_error(damage.total.buckets[2].kl) in text


def test_text_says_when_figures_are_broken(damage):
    broken = replace(damage, total=replace(damage.total, broken_compressed=7))
    assert any("BROKEN" in line and "7 tokens" in line for line in render(broken))


def test_control_characters_of_a_foreign_record_do_not_reach_the_terminal(damage):
    hostile = replace(damage, text="\x1b[2Jgone", domains={"a\nb": damage.total})
    assert not any("\x1b" in line or "\n" in line for line in render(hostile))


def test_the_gate_lets_honest_damage_pass(damage):
    assert gate(with_kl(damage, 3.0), predicted=0.8) is None
    assert gate(with_kl(damage, 0.02), predicted=0.0001) is None
    assert gate(with_kl(damage, 9.0), predicted=None) is None


def test_the_gate_refuses_what_is_far_beyond_the_prediction(damage):
    reason = gate(with_kl(damage, 6.0), predicted=0.05)
    assert reason is not None and "6.00" in reason and "0.0500" in reason
    assert gate(with_kl(damage, FAR * SMALL * 1.1), predicted=0.0) is not None
    assert gate(with_kl(damage, 6.0, error=3.0), predicted=0.05) is None, "within its doubt"


def test_what_data_did_not_foresee_is_doubted(damage):
    said = doubt(with_kl(damage, 0.2), predicted=0.03)
    assert "0.2" in said and "0.03" in said and "without gradients" in said
    assert doubt(with_kl(damage, 0.1), predicted=0.03) == ""
    assert doubt(with_kl(damage, 0.2, error=0.05), predicted=0.03) == "", "within its doubt"
    assert doubt(with_kl(damage, DOUBTFUL * SMALL * 0.9), predicted=1e-9) == ""
    assert doubt(with_kl(damage, 0.2), predicted=None) == ""
    assert doubt(NotMeasured("no room"), predicted=0.03) == ""


def test_the_gate_refuses_nan_whatever_else(damage):
    broken = replace(damage, total=replace(damage.total, broken_compressed=7))
    reason = gate(broken, predicted=None)
    assert reason is not None and "compressed" in reason and "7 of 307" in reason
    original = replace(damage, total=replace(damage.total, broken_original=7, broken_compressed=0))
    assert "original" in (gate(original, predicted=None) or "")


def test_the_users_limit(damage):
    assert (
        gate(with_kl(damage, 0.03), 0.02, limit=0.02)
        == "KL 0.0300 nats per token is above the allowed 0.0200"
    )
    assert gate(with_kl(damage, 0.03), 0.02, limit=0.04) is None
