"""transformers finds us whatever is imported first, and nobody's import breaks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CHECK = """
import sys
auto = sys.modules["transformers.quantizers.auto"]
print("higgsx" in auto.AUTO_QUANTIZER_MAPPING, "higgsx" in auto.AUTO_QUANTIZATION_CONFIG_MAPPING)
"""
ORDERS = {
    "we first": "import higgsx; from transformers import PreTrainedModel",
    "their table first": "import transformers.quantizers.auto; import higgsx",
    "their models first": "from transformers import PreTrainedModel; import higgsx",
}
BY_TORCH = {
    "never": "from transformers import PreTrainedModel",
    "never, and torch only by their table": "import transformers.quantizers.auto; import tabnanny",
}
"""Orders in which nobody imports us but torch, at the end of its own import."""


def run(code: str, folder: Path, by_torch: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] = str(int(by_torch))
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that offers our entry point to torch, as an installation does."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "higgsx_entry-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: higgsx-entry\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[torch.backends]\nhiggsx_test = higgsx.integrations.hf.boot:install\n"
    )
    return folder


def test_registered_in_every_order_of_imports(installed: Path) -> None:
    orders = {order: (code, order in BY_TORCH) for order, code in (ORDERS | BY_TORCH).items()}
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda how: run(how[0] + CHECK, installed, how[1]), orders.values()))
    for order, result in zip(orders, done, strict=True):
        assert result.stdout.strip() == "True True", f"{order}: {result.stdout}{result.stderr}"
        assert result.stderr == "", order


def test_importing_us_starts_nothing(tmp_path: Path) -> None:
    code = """
import sys
import higgsx
print([name for name in ("torch", "transformers", "peft", "numpy", "accelerate") if name in sys.modules])
"""
    result = run(code, tmp_path)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_a_broken_transformers_breaks_nobody_elses_import(tmp_path: Path) -> None:
    package = tmp_path / "transformers"
    (package / "quantizers").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "quantizers/__init__.py").write_text("")
    (package / "quantizers/auto.py").write_text("from transformers.quantizers import nothing_here\n")
    code = """
import higgsx.integrations.hf.boot as boot
boot.install()
try:
    import transformers.quantizers.auto
except ImportError as error:
    print("theirs" if "nothing_here" in str(error) else "ours")
import types, sys
sys.modules["transformers.quantizers.auto"] = types.ModuleType("transformers.quantizers.auto")
boot.install()
import tabnanny
print("fine")
"""
    result = run(code, tmp_path)
    assert result.stdout.split() == ["theirs", "fine"], result.stdout + result.stderr
