"""What is lost at which size: one code for all, hqq, torch's int8, ALMPQ without and with gradients, hybrid.

    python benchmarks/fidelity.py [MODEL ...]     prints what benchmarks/measured/fidelity.json holds and
                                                  measures what it lacks
    python benchmarks/fidelity.py MODEL --again       measures it anew
    python benchmarks/fidelity.py --only "uniform hqq" "torch int8"    rows whose name begins so
    python benchmarks/fidelity.py --at "4.25 bits" gauss16.b64         rows at these places
    python benchmarks/fidelity.py --list              the models that are here
    python benchmarks/fidelity.py --write             fills docs/results.md and README.md from there

Weights are encoded and decoded as a file holds them and run in fp32, so the figures are the error of the
weights alone (torch's int8 rounds activations too). Language models of 0.5 B and 1.5 B: two windows of 512
tokens of each text, no beginning-of-text token, as in ../shared/research/anchors.md; small ones: twelve
windows of 256 with it. Whisper: the clips of LJ Speech, teacher-forced and transcribed. Gradients learn from
what `--gradients` makes from nothing, or from calibration material, never from what is measured on.
"""

from __future__ import annotations

import argparse
import json
import sys

from damage.bench import Bench
from damage.rows import OUT, Store, measure
from damage.subjects import ALL, subject
from results import write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--only", nargs="+", default=[], metavar="PLAN")
    parser.add_argument("--at", nargs="+", default=[], metavar="PLACE")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write(json.loads(OUT.read_text()))
        return
    store = Store(options.again)
    for name in options.models or ALL:
        one = subject(name)
        if not one.here:
            print(f"{name}: not here, left out (see ../shared/models/real/prepare.py)", file=sys.stderr)
            continue
        if options.list:
            print(name)
            continue
        for row in store.known(name):
            print(_line(row), flush=True)
        for row in measure(Bench(one), store, options.only, options.at):
            store.add(row)
            print(_line(row), flush=True)


def _line(row: dict[str, object]) -> str:
    damage: dict = row["damage"]  # type: ignore[type-arg,assignment]
    vectors = damage.get("vectors")
    lost = f"error {vectors['relative_error']['mean']:.4g}" if vectors else f"KL {damage['kl']['mean']:.4g}"
    where = f"{row['model']:20} {row['plan']!s:22} {row['at']!s:18}"
    return f"{where} {row['bits']:.3f} bits  {lost}  {row['seconds']} s"


if __name__ == "__main__":
    main()
