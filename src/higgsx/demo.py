"""`make demo`: compress the small model that the package brings, look inside, run it, say what was lost."""

from __future__ import annotations

import sys
import tempfile
from importlib import resources
from pathlib import Path

from higgsx.cli.__main__ import main as higgsx

BITS = "4.25"
PROMPT = "Once upon a time, there was a little"


def main() -> int:
    """Every step is a command that a person could type; it is printed before it runs."""
    with (
        resources.as_file(resources.files("higgsx").joinpath("data/tales-1m")) as model,
        tempfile.TemporaryDirectory() as folder,
    ):
        file, whole = Path(folder) / "tales-1m.hgs", Path(folder) / "exact.hgs"
        steps = (
            ("what would be done", ["plan", str(model), "--bits", BITS]),
            (
                "compress, and measure what was lost",
                ["compress", str(model), "--bits", BITS, "-o", str(file)],
            ),
            (
                "an exact copy, to compare with",
                ["compress", str(model), "--bits", "16", "--no-check", "-o", str(whole)],
            ),
            ("look inside", ["inspect", str(file)]),
            ("every byte is as it was written", ["verify", str(file)]),
            ("the original continues a text", ["run", str(whole), PROMPT, "-n", "60"]),
            ("the compressed model continues it", ["run", str(file), PROMPT, "-n", "60"]),
        )
        for title, words in steps:
            shown = " ".join(
                word.replace(str(folder) + "/", "").replace(str(model), "tales-1m") for word in words
            )
            print(f"\n=== {title}\n$ higgsx {shown}", flush=True)
            status = higgsx(words)
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
