"""A fresh interpreter, for what is settled once in a process."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **variables: str | None) -> str:
    """What it prints, or the last line of how it fails. None: a variable that is not set."""
    wanted = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120,
        env={name: value for name, value in wanted.items() if value is not None},
    )  # fmt: skip
    return (done.stdout or done.stderr.splitlines()[-1]).strip()
