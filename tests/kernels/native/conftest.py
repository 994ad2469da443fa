"""Every test here runs on the native library; without one it is skipped, saying why."""

from __future__ import annotations

from collections.abc import Iterator

import machine
import pytest


@pytest.fixture(autouse=True)
def _needs_library() -> None:
    if machine.REASON is not None:
        pytest.skip(f"no native library: {machine.REASON}")


@pytest.fixture(params=machine.tiers())
def tier(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each tier that this machine can run, in use."""
    with machine.using(request.param):
        yield request.param
