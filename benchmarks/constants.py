"""The constants of the prediction without data: K and the factors of `pipeline/candidates.py`.

    python benchmarks/constants.py [MODEL ...]

Damages what a model reads and says, and everything else, one at a time, with one code for all; divides the
measured KL by Σ √weights · relative squared error. K is the geometric mean of the inner ones, a factor the
geometric mean of a role's ratio over K. The spread is printed beside: it is how far a prediction may be off.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Sequence

import torch
from common import REAL_MODELS, SMALL_MODELS, folder_of, machine, markdown, present, texts_of

from higgsx.codecs.codebook import Codebook
from higgsx.fidelity.compare import compare
from higgsx.fidelity.report import Arithmetic
from higgsx.fidelity.texts import text_windows
from higgsx.integrations.hf.model import HFModel
from higgsx.pipeline.candidates import descriptor_of
from higgsx.pipeline.encode import encode_tensor
from higgsx.pipeline.survey import Item, survey
from higgsx.source.hub import open_source

CODES = ("gauss8", "gauss16")
BLOCK = 64
WINDOWS = {True: (512, 1), False: (256, 6)}
MODE = Arithmetic("weights fp32, arithmetic fp32", "weights fp32, arithmetic fp32")


def role_of(item: Item) -> str:
    if {"embedding", "head"} <= item.roles:
        return "tied"
    return next((role for role in ("embedding", "head") if role in item.roles), "inner")


def damaged(model: torch.nn.Module, handle: HFModel, items: Sequence[Item], table: str) -> float:
    """Damage the items of a model in place; returns Σ √weights · relative squared error."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    total = 0.0
    for item in items:
        weight = parameters[handle.names[item.name]].data
        settled, arrays = encode_tensor(
            weight, descriptor_of(item, Codebook.plain(table, BLOCK)), where=item.name
        )
        decoded = settled.decode(arrays)
        error = float((decoded - weight).double().square().sum() / weight.double().square().sum())
        weight.copy_(decoded)
        total += item.weights**0.5 * error
    return total


def rows_of(name: str) -> list[tuple[str, str, str, float, float]]:
    source = open_source(folder_of(name))
    handle = HFModel.of(source)
    items = [item for item in survey(source, handle) if not item.why]
    length, count = WINDOWS[name in REAL_MODELS]
    windows = {
        domain: text_windows(path, handle.encoder(), length, count) for domain, path in texts_of(name).items()
    }
    original = handle.materialise(torch.float32)
    rows = []
    for table in CODES:
        for role in sorted({role_of(item) for item in items}):
            model = copy.deepcopy(original)
            unit = damaged(model, handle, [item for item in items if role_of(item) == role], table)
            damage = compare(original, model, windows, arithmetic=MODE, text="test", task=handle.task)
            rows.append((name, table, role, unit, damage.total.kl.mean.value or 0.0))
            print(*rows[-1], file=sys.stderr)
    return rows


def geometric(values: Sequence[float]) -> tuple[float, float]:
    """Geometric mean and the factor that one standard deviation is."""
    logs = torch.tensor([math.log(value) for value in values], dtype=torch.float64)
    return math.exp(logs.mean()), math.exp(logs.std()) if len(values) > 1 else 1.0


def main(names: Sequence[str]) -> None:
    rows = [row for name in present(names or (*SMALL_MODELS, *REAL_MODELS)) for row in rows_of(name)]
    print(f"{machine()}\n")
    shown = [(n, t, r, f"{unit:.4g}", f"{kl:.4g}", f"{kl / unit:.3g}") for n, t, r, unit, kl in rows]
    print(markdown(shown, ("model", "code", "role", "Σ √n · e", "KL", "KL per unit")))
    k, spread = geometric([kl / unit for _, _, role, unit, kl in rows if role == "inner"])
    print(f"\nK = {k:.3g} nats, one standard deviation is a factor {spread:.2f}")
    for role in sorted({row[2] for row in rows} - {"inner"}):
        factor, spread = geometric([kl / unit / k for _, _, other, unit, kl in rows if other == role])
        print(f"factor of {role}: {factor:.3g}, one standard deviation is a factor {spread:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
