"""One table, a reason for every choice, and what is forced really runs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from packed_samples import CODECS, packed

from higgsx.errors import UsageError
from higgsx.kernels import native, ops, reference, select

X = torch.ones(2, 200)


def rows_then_product(x: torch.Tensor, weight, bias: torch.Tensor | None) -> torch.Tensor:
    """Another right kernel: one output after the other."""
    matrix = reference.decode(weight)
    out = torch.stack([(x * row).sum(-1) for row in matrix], dim=-1)
    return out if bias is None else out + bias


SLOW = select.Kernel("rows", "linear", rows_then_product, frozenset({"uniform"}), frozenset({"cpu"}), tier=-1)
PLAIN = tuple(row for row in select.TABLE if row.name == "reference")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "TABLE", (*PLAIN, SLOW))


def ran(**how: str) -> list[tuple[str, str]]:
    with ops.watched() as seen:
        if "forced" in how:
            with ops.forced(how["forced"]):
                ops.linear(X, packed(CODECS[0]))
        else:
            ops.linear(X, packed(CODECS[0]))
    return seen


def test_every_operation_has_a_reference():
    assert {row.op for row in PLAIN} == set(select.REFERENCE)
    assert {row.op for row in select.TABLE if row.name == "reference"} == {row.op for row in select.TABLE}
    for row in select.TABLE:
        kernel, reason = select.choose(row.op, "codebook", "cpu")
        assert kernel.op == row.op and reason.startswith(f"{kernel.name}: ")


def test_the_highest_tier_is_taken(two: None):
    assert ran() == [("linear", "reference")]
    assert select.choose("linear", "uniform", "cpu")[1] == "reference: highest tier"
    assert select.choose("linear", "codebook", "cpu")[1] == "reference: the only one"


def test_the_forced_one_ran(two: None):
    assert ran(forced="rows") == [("linear", "rows")]
    assert ran(forced="reference") == [("linear", "reference")]
    assert ran() == [("linear", "reference")]
    with ops.forced("rows"):
        by_rows = ops.linear(X, packed(CODECS[0]))
    torch.testing.assert_close(by_rows, ops.linear(X, packed(CODECS[0])))


def test_the_variable_forces_where_it_can_serve(two: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(select.VARIABLE, "rows")
    assert ran() == [("linear", "rows")]
    assert select.choose("linear", "uniform", "cpu")[1] == f"rows: {select.VARIABLE}"
    kernel, reason = select.choose("linear", "codebook", "cpu")
    assert kernel.name == "reference" and reason.endswith(f"{select.VARIABLE}=rows does not serve here")
    monkeypatch.setenv(select.VARIABLE, "")
    assert ran() == [("linear", "reference")]


def test_a_wrong_name_fails(two: None, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UsageError, match="no such kernel.*fast.*reference, rows"):
        ran(forced="fast")
    with pytest.raises(UsageError, match="no such kernel"):
        select.choose("linear", "codebook", "cpu", force="rows")
    monkeypatch.setenv(select.VARIABLE, "fast")
    with pytest.raises(
        UsageError, match=f"{select.VARIABLE}: no such kernel, got fast, expected reference, rows"
    ):
        ran()
    with pytest.raises(UsageError, match="no kernel"):
        select.choose("divide", "uniform", "cpu")


def test_a_kernel_that_is_missing_is_passed_over_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    absent = dataclasses.replace(SLOW, name="absent", tier=5, missing=lambda: "no such processor")
    monkeypatch.setattr(select, "TABLE", (*PLAIN, absent))
    kernel, reason = select.choose("linear", "uniform", torch.device("cpu"))
    assert kernel.name == "reference" and reason == "reference: no absent (no such processor)"
    with pytest.raises(UsageError, match="cannot run here.*no such processor"):
        select.choose("linear", "uniform", "cpu", force="absent")
    monkeypatch.setenv(select.VARIABLE, "absent")
    with pytest.raises(UsageError, match="cannot run here"):
        select.choose("linear", "uniform", "cpu")


def test_description_for_people(two: None):
    rows = select.describe(("uniform", "codebook"), ("cpu",))
    assert len(rows) == 2 * len({row.op for row in select.TABLE})
    by_key = {(row.op, row.family): (row.kernel, row.reason) for row in rows}
    assert by_key["linear", "uniform"] == ("reference", "highest tier")
    assert by_key["conv", "codebook"] == ("reference", "the only one")


def test_a_call_that_a_kernel_declines_goes_to_the_reference(monkeypatch: pytest.MonkeyPatch):
    picky = dataclasses.replace(
        SLOW, name="picky", tier=5, declines=lambda x, packed, bias: "too long" if len(x) > 2 else None
    )
    monkeypatch.setattr(select, "TABLE", (*PLAIN, picky))
    with ops.watched() as seen:
        ops.linear(X, packed(CODECS[0]))
        ops.linear(torch.ones(3, 200), packed(CODECS[0]))
        with (
            pytest.raises(
                UsageError, match="linear: this kernel cannot serve this call, got picky .too long"
            ),
            ops.forced("picky"),
        ):
            ops.linear(torch.ones(3, 200), packed(CODECS[0]))
    assert seen == [("linear", "picky"), ("linear", "reference")]


def test_native_kernels_come_first_where_they_run():
    for op in {row.op for row in select.TABLE}:
        for family in ("uniform", "codebook"):
            kernel, reason = select.choose(op, family, "cpu")
            missing = native.available()
            assert kernel.name == ("native" if missing is None else "reference")
            assert missing is None or missing in reason
        assert select.choose(op, "dense", "cpu")[0].name == "reference"
        assert select.choose(op, "uniform", "meta")[0].name == "reference"
