"""Files of the zoo, and what transformers computes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from zoo import ZOO, random_folder

import higgsx
from higgsx.kernels import native

Get = Callable[[str], Path]


@pytest.fixture
def library() -> Iterator[native.Native]:
    """The native library. The number of threads is the process's: a test that changes it puts it back."""
    why = native.available()
    if why is not None:
        pytest.skip(f"no native kernels: {why}")
    found = native.load()
    before = found.threads
    yield found
    found.hgx_set_threads(before)


@pytest.fixture(scope="session")
def zoo_hgs(tmp_path_factory: pytest.TempPathFactory) -> Get:
    """Name in the zoo → its file: codebooks and 8 bits side by side, so that neighbours differ."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            made[name] = place / "model.hgs"
            folder = random_folder(name, place / "model")
            higgsx.compress(folder, made[name], bits=5.5, allow=("gauss16", "int8", "int6"), check=False)
        return made[name]

    return get


@pytest.fixture(params=sorted(ZOO))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
