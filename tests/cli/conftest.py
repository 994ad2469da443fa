"""Running the command line inside this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from higgsx.cli.__main__ import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object on standard output; fails where anything else stands there."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def go(*words: object) -> Ran:
        capsys.readouterr()
        try:
            status = main([str(word) for word in words])
        except SystemExit as leaving:  # --help, --version
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return go


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """Run, with and without --json; one clear line comes back and nothing else was said."""

    def go(status: int, *words: object, as_json: bool = True) -> str:
        ran = run(*words)
        assert ran.status == status, ran.err
        assert ran.out == ""
        line = one_line(ran.err)
        if as_json:
            again = run(*words, "--json")
            assert again.status == status
            error = again.json["error"]
            assert again.json.keys() == {"error"}
            assert error["code"]
            assert one_line(again.err) == line == f"higgsx: {error['message']}"
        return line

    return go


def one_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("higgsx: ")
    assert "Traceback" not in text
    return lines[0]
