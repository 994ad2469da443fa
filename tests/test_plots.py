"""Pictures of plans: valid, complete, in the right places."""

from __future__ import annotations

import builtins
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from higgsx import plots
from higgsx.almpq.budget import Budget
from higgsx.almpq.plan import Plan
from higgsx.almpq.solve import solve
from higgsx.almpq.table import Candidate, CostTable, Group
from higgsx.errors import StorageError, UsageError

SVG = "{http://www.w3.org/2000/svg}"


def table() -> CostTable:
    """Three kinds of weight in five layers, and a table that is in no layer."""
    groups = []
    names = [f"body.{layer}.{kind}.weight" for layer in range(5) for kind in ("mix.in", "mix.out", "up")]
    for order, name in enumerate([*names, "words.weight"]):
        candidates = [Candidate("exact", 2000, 2048, 0.0, True, {})]
        for bits in (2, 4, 8):
            loss = (1 + order % 3) * 4.0**-bits
            candidates.append(
                Candidate(f"int{bits}", 125 * bits, 125 * bits + 3, loss, False, {"bits": bits})
            )
        groups.append(Group(name, (name,), 1000, True, tuple(candidates), order=order))
    groups.append(
        Group("norm", ("norm",), 10, False, (Candidate("exact", 20, 64, 0.0, True, {}),), "norm", 99)
    )
    return CostTable(tuple(groups), "blake3:x")


def made(bits: str = "4") -> tuple[CostTable, Plan]:
    budget = Budget.of_bits(bits)
    return table(), Plan.from_solution(table(), solve(table(), budget), budget)


def tree(panels: list[plots.Panel]) -> ElementTree.Element:
    return ElementTree.fromstring(plots.svg(panels))


def texts(root: ElementTree.Element) -> list[str]:
    return [one.text or "" for one in root.iter(f"{SVG}text")]


def test_everything_is_in_the_picture_of_a_plan():
    root = tree(plots.of_plan(*made()))
    said = texts(root)
    assert {"best plans", "one code for all", "this plan (0 MB, 4.00 bits)"} <= set(said)
    assert {"mix.in", "mix.out", "up"} <= set(said)
    assert any(text.startswith("words: ") and text.endswith("(int4)") for text in said)
    assert not any("norm" in text for text in said)
    circles = list(root.iter(f"{SVG}circle"))
    assert len(circles) == 3 + 1  # three codes, and the legend's
    cells = [one for one in root.iter(f"{SVG}rect") if one.get("height") == "22"]
    assert len(cells) == 15


def test_points_stand_where_their_values_are():
    """One step of ten is as far everywhere on the upward axis, and more is higher; sizes go to the right."""
    series = [plots.Series("s", [(1.0, 0.1, 0.0), (2.0, 0.01, 0.0), (3.0, 0.001, 0.0)])]
    root = tree([plots.scatter(series, "t", "a", "b")])
    places = [(float(one.get("cx")), float(one.get("cy"))) for one in root.iter(f"{SVG}circle")][:3]
    across = [b[0] - a[0] for a, b in zip(places, places[1:], strict=False)]
    down = [b[1] - a[1] for a, b in zip(places, places[1:], strict=False)]
    assert min(across) > 0 and min(down) > 0
    assert math.isclose(*across, abs_tol=0.05) and math.isclose(*down, abs_tol=0.05)


def test_more_bits_are_darker():
    sizes = {"body.0.a.weight": 2, "body.1.a.weight": 4, "body.2.a.weight": 8}
    whole, plan = made()
    picked = [one for one in plan.choices if one.name.endswith("up.weight")][:3]
    changed = [
        type(one)(**{**vars(one), "name": name, "nbytes": 125 * bits})
        for one, (name, bits) in zip(picked, sizes.items(), strict=True)
    ]
    root = tree([plots.bits_by_layer(changed)])
    shades = [int(one.get("fill")[1:3], 16) for one in root.iter(f"{SVG}rect") if one.get("height") == "22"]
    assert shades[0] > shades[1] > shades[2]


def test_errors_are_drawn_as_lines():
    plain, doubtful = ([plots.Series("s", [(1.0, 0.1, error), (2.0, 0.2, error)])] for error in (0.0, 0.05))
    count = [
        len(list(tree([plots.scatter(one, "t", "a", "b")]).iter(f"{SVG}line"))) for one in (plain, doubtful)
    ]
    assert count[1] >= count[0] + 2 - 1  # the upper end may need another line of the grid


def test_text_from_names_is_no_markup():
    hostile = [plots.Series("<script>&", [(1.0, 1.0, 0.0)])]
    assert "<script>&" in texts(tree([plots.scatter(hostile, "<b>", "a", "b")]))


def test_nothing_and_single_points_are_drawn():
    for series in ([], [plots.Series("one", [(5.0, 0.5, 0.0)])]):
        assert tree([plots.scatter(series, "t", "a", "b")]) is not None
    assert tree([plots.bits_by_layer([])]) is not None


def test_files(tmp_path: Path):
    panels = plots.of_plan(*made())
    place = tmp_path / "plan.svg"
    plots.save(panels, place)
    first = place.read_bytes()
    with pytest.raises(StorageError):
        plots.save(panels, place)
    plots.save(plots.of_plan(*made()), place, force=True)
    assert place.read_bytes() == first
    for refuse in (plots.require_drawable, lambda path: plots.save(panels, path)):
        with pytest.raises(UsageError, match="svg"):
            refuse(tmp_path / "plan.gif")


def test_png_without_its_library_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cairosvg":
            raise ImportError(name)
        return before(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for refuse in (plots.require_drawable, lambda path: plots.save(plots.of_plan(*made()), path)):
        with pytest.raises(UsageError, match="pip install"):
            refuse(tmp_path / "plan.png")
    assert not list(tmp_path.iterdir())


def test_png(tmp_path: Path):
    pytest.importorskip("cairosvg", reason="the extra `plot` is not installed")
    plots.save(plots.of_plan(*made()), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
