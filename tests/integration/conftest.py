"""Every family of `tiny_models.py`, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import FAMILIES, Tiny, tiny


@pytest.fixture(params=sorted(FAMILIES))
def any_tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Tiny:
    """A tiny model of every family, saved as a checkpoint."""
    return tiny(request.param, tmp_path / "model")
