"""The documentation is true in what can be checked: places exist, links resolve, commands parse."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import higgsx
from higgsx.cli.__main__ import VERBS, parser
from test_layers import EVERYONE, MAY_IMPORT

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "higgsx"
TOUR = ROOT / "docs" / "tour.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PLACE = re.compile(r"([\w./-]+\.py)(?:: ([\w.]+))?")


def test_every_page_is_tried() -> None:
    assert {"README.md", "tour.md", "format.md"} <= {page.name for page in PAGES}


# places


def places() -> list[tuple[str, str]]:
    """(file, dotted name or nothing) of everything in backticks in the tour that looks like a place."""
    found = [_PLACE.fullmatch(code) for code in _CODE.findall(TOUR.read_text(encoding="utf-8"))]
    return [(match[1], match[2] or "") for match in found if match and match[1] != "file.py"]


@cache
def names_in(file: Path) -> frozenset[str]:
    """Names that a file defines at its top level, and those in its classes as `Class.name`."""
    return frozenset(_defined(ast.parse(file.read_text(encoding="utf-8")).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _defined(node.body, f"{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


def test_the_tour_is_worth_checking() -> None:
    assert len(places()) > 50 and sum(bool(name) for _, name in places()) > 50


@pytest.mark.parametrize(("file", "name"), sorted(set(places())))
def test_places_of_the_tour_exist(file: str, name: str) -> None:
    path = next((root / file for root in (SOURCE, ROOT) if (root / file).is_file()), None)
    assert path is not None, f"there is no {file}"
    assert not name or name in names_in(path), f"{file} defines no {name}"


def test_the_tour_names_every_verb() -> None:
    files = {file for file, _ in places()}
    assert {f"cli/{verb}_.py" for verb in VERBS} <= files


# links


@pages
def test_relative_links_resolve(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = link.partition("#")[0]
        if path and "://" not in path:
            assert (page.parent / path).exists(), f"{link} leads nowhere"


# commands


@cache
def options_of(verb: str) -> frozenset[str]:
    (verbs,) = (a for a in parser([verb])._actions if isinstance(a, argparse._SubParsersAction))
    return frozenset(option for action in verbs.choices[verb]._actions for option in action.option_strings)


def commands(text: str) -> list[list[str]]:
    """Words after `higgsx` of every line in a code block that is such a command."""
    blocks = "\n".join(block for language, block in _FENCE.findall(text) if language != "python")
    lines = (line for line in blocks.replace("\\\n", " ").splitlines() if line.startswith("higgsx "))
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pages
def test_whole_commands_parse(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        assert parser(words).parse_args(words).verb == words[0]
        # the parser would also take the beginning of an option
        assert {word for word in words if word.startswith("--")} <= options_of(words[0]), words


@pages
def test_options_that_are_mentioned_exist(page: Path) -> None:
    """In running text: `higgsx VERB --option` has the option, `--option` alone is one of some verb's."""
    every = {"--version", "--help"}.union(*(options_of(verb) for verb in VERBS))
    for code in _CODE.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = code.split()
        if words[0] == "higgsx" and len(words) > 1 and words[1] != "VERB":
            assert words[1] in VERBS, code
            assert {word for word in words[2:] if word.startswith("-")} <= options_of(words[1]), code
        elif words[0].startswith("--") and page.name in (
            "README.md",
            "compressing.md",
            "running.md",
            "damage.md",
        ):
            assert words[0] in every, code


def test_commands_are_found() -> None:
    assert len(commands((ROOT / "README.md").read_text(encoding="utf-8"))) == 5


# Python


@pages
def test_python_calls_fit_the_public_functions(page: Path) -> None:
    for language, block in _FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "higgsx"
            ):
                assert node.attr in higgsx.__all__, f"higgsx.{node.attr}"
            if isinstance(node, ast.Call) and _public_name(node.func) in higgsx.__all__:
                known = inspect.signature(getattr(higgsx, _public_name(node.func))).parameters
                assert {word.arg for word in node.keywords} <= set(known), ast.unparse(node)


def _public_name(func: ast.expr) -> str:
    """`load` of `higgsx.load(…)`, `HiggsxConfig` of `HiggsxConfig(…)`, else nothing."""
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "higgsx":
        return func.attr
    return func.id if isinstance(func, ast.Name) and func.id == "HiggsxConfig" else ""


# rooms


def test_architecture_says_who_may_import_whom() -> None:
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("## Who may import whom")[2].partition("\n## ")[0]
    said: dict[str, set[str]] = {}
    for line in section.splitlines():
        cells = [cell.strip().replace("the door", "``") for cell in line.strip("|").split("|")]
        if len(cells) == 2 and cells[0].startswith("`"):
            rooms = {name.strip("`") for name in cells[1].split(", ") if name != "nothing"}
            said |= {name.strip("`"): rooms for name in cells[0].split(", ")}
    assert said == {name: rooms for name, rooms in MAY_IMPORT.items() if name not in EVERYONE}
