"""What `pip install` gives to others: run by `make wheel-check`, in a minute or two, not by pytest.

1. A wheel is built; it needs only what a manylinux platform has, and serves every Python 3.
2. Installed elsewhere, with NumPy alone beside it and this source tree out of reach, it computes a product.
3. Where there is no compiler it is built and installed too, and says that it is slow and why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

PRODUCT = """
import ctypes, numpy, pathlib
from higgsx.kernels import native, structs
library = native.load()
assert ROOT not in native.__file__ and ROOT not in str(library.path), native.__file__
weight, x = numpy.eye(40, dtype=numpy.float32), numpy.arange(80, dtype=numpy.float32).reshape(2, 40)
m = structs.Matrix(kind=structs.DENSE, dtype=structs.F32, outputs=40, inputs=40, data=weight.ctypes.data,
                   data_bytes=weight.nbytes)
y, scratch = numpy.zeros((2, 40), numpy.float32), numpy.zeros(1 << 16, numpy.uint8)
status = library.hgx_linear(native.address_of(m), 2, x.ctypes.data, 0, 40, structs.FLOAT, None, y.ctypes.data,
                            0, 40, scratch.ctypes.data, scratch.nbytes)
library.check(status)
assert (x == y).all()
print("product computed by", library.tier)
"""

NO_LIBRARY = """
from higgsx.kernels import native
reason = native.available()
assert reason, "there is a library, but no compiler made it"
print("no library:", reason)
"""


def run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    text: str = done.stdout + done.stderr
    return text


def wheel(folder: Path, environment: dict[str, str]) -> tuple[Path, str]:
    said = run(sys.executable, "-m", "build", "--wheel", "-o", folder, ROOT, env=environment)
    (made,) = folder.glob("higgsx-*.whl")
    return made, said


def libraries(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if name.endswith((".so", ".dylib", ".dll"))]


def installed(folder: Path, path: Path) -> Path:
    """Python of a new environment with the wheel and the little that its native part needs."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "numpy", "blake3", "psutil")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", path)
    return python


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("HIGGSX", "PYTHON"))}


def main() -> None:
    environment = clean_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        path, _ = wheel(folder / "full", environment)
        assert "-py3-none-" in path.name, path.name
        assert libraries(path) == ["higgsx/kernels/_native/libhiggsx.so"], libraries(path)
        shown = run(sys.executable, "-m", "auditwheel", "show", path)
        assert "manylinux_" in shown, shown
        print(path.name, "\n", shown.strip())
        python = installed(folder / "with", path)
        program = f"ROOT = {str(ROOT)!r}\n{PRODUCT}"
        print(run(python, "-c", program, cwd=folder, env=environment).strip())

        # no compiler by any of the names that a build looks for
        bare = {
            **environment,
            "CXX": "/bin/false",
            "CC": "/bin/false",
            "PATH": str(Path(sys.executable).parent),
        }
        path, said = wheel(folder / "bare", bare)
        assert libraries(path) == [], libraries(path)
        python = installed(folder / "without", path)
        print(run(python, "-c", NO_LIBRARY, cwd=folder, env=environment).strip())
        print("said while building:", *[line for line in said.splitlines() if "slow" in line][:1])


if __name__ == "__main__":
    main()
