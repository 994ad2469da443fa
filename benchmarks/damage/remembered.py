"""Gradient statistics on disk: they take minutes, and every script needs the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from common import ROOT

from higgsx.calibration.statistics import Bend, Statistics
from higgsx.pipeline.learn import Learned

_PLACE = ROOT / "benchmarks" / "out" / "gradients"


def remembered(name: str, key: str, make: Callable[[], Learned]) -> Learned:
    """What was saved under the name if it was made from the same (`key`), else what `make` gives, saved."""
    path = _PLACE / f"{name}.npz"
    if path.is_file():
        with np.load(path) as held:
            about = json.loads(str(held["about"]))
            if about["key"] == key:
                r, powers = (
                    {one[2:]: torch.from_numpy(held[one]) for one in held.files if one.startswith(kind)}
                    for kind in ("r:", "p:")
                )
                bends = {kind: Bend(**values) for kind, values in about["bends"].items()}
                found = Statistics(r, powers, about["tokens"], about["unit"], about["text"], bends)
                return Learned(found, about["scales"])
    learned = make()
    made = learned.statistics
    arrays = {f"r:{one}": values.numpy() for one, values in made.r.items()}
    arrays |= {f"p:{one}": values.numpy() for one, values in made.powers.items()}
    about: dict[str, Any] = {"key": key, "tokens": made.tokens, "unit": made.unit, "text": made.text}
    about["bends"] = {kind: asdict(bend) for kind, bend in made.bends.items()}
    about["scales"] = dict(learned.scales)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, about=np.array(json.dumps(about)), **arrays)
    return learned
