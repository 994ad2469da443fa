"""What several rooms test with: the model that the package brings, and tiny ones of other families."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import folders
import higgsx
from arithmetic import Arithmetic
from higgsx.kernels import native, ops

TALES = Path(higgsx.__file__).parent / "data" / "tales-1m"
QUICK = ("gauss16", "int8")
"""A palette that is small, so that tests are fast."""


def pytest_configure(config: pytest.Config) -> None:
    # the tests also run without the library; that the warning comes is a test of its own
    config.addinivalue_line("filterwarnings", "ignore::higgsx.errors.SlowWarning")


@pytest.fixture(params=["reference", "native"])
def arithmetic(request: pytest.FixtureRequest) -> Iterator[Arithmetic]:
    """Both ways to multiply with packed weights, one after the other; activations are not rounded."""
    if request.param == "native" and native.available() is not None:
        pytest.skip(f"no native kernels: {native.available()}")
    with ExitStack() as stack:
        if request.param == "reference":
            stack.enter_context(ops.forced("reference"))
        stack.enter_context(ops.precision("float"))
        yield Arithmetic(request.param)


@pytest.fixture
def reference_kernels() -> Iterator[None]:
    """Packed weights compute exactly what decoded ones do."""
    with ops.forced("reference"):
        yield


@pytest.fixture(scope="session")
def tales() -> Path:
    return TALES


@pytest.fixture(scope="session")
def tales_hgs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model at 4.25 bits, its damage measured. Not to be changed."""
    path = tmp_path_factory.mktemp("tales") / "tales.hgs"
    higgsx.compress(TALES, path, bits=4.25, allow=(*QUICK, "gauss8"))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family → folder of a tiny random model without a tokenizer. Not to be changed."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = folders.tiny_folder(family, tmp_path_factory.mktemp(family) / "model")
        return made[family]

    return get


@pytest.fixture(scope="session")
def tiny_hgs(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], Path]) -> Callable[[str], Path]:
    """Family → its tiny model at 5 bits. Not to be changed."""
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / f"{family}.hgs"
            higgsx.compress(tiny(family), made[family], bits=5, allow=QUICK, check=False)
        return made[family]

    return get
