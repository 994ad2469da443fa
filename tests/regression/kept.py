"""Tables of what codecs and roundings give, kept beside the tests and reviewed as a diff."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import torch
from blake3 import blake3

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.panels import PanelCodec
from higgsx.rounding.base import Choose, exponent_for


def measured(form: PanelCodec, x: torch.Tensor, choose: Choose) -> dict[str, str]:
    """Bytes, relative squared error and digest of x, float32 `[inputs, rows]`."""
    codec = dataclasses.replace(form, exponent=exponent_for(form, x.abs().max()))  # type: ignore[type-var]
    payload, of_rows = codec.pack(*choose(codec, x))
    arrays = {"_hgs": payload} if of_rows is None else {"_hgs": payload, "_hgsr": of_rows}
    decoded = codec.decode(arrays, MatrixShape(x.shape[1], x.shape[0])).t()
    error = (decoded.double() - x).square().sum() / x.double().square().sum()
    digest = blake3(b"".join(array.numpy().tobytes() for array in arrays.values())).hexdigest()
    return {
        "bytes": str(sum(array.nbytes for array in arrays.values())),
        "error": f"{float(error):.4g}",
        "digest": digest[:12],
    }


def require_as_before(table: Path, now: list[dict[str, str]]) -> None:
    with table.open(newline="", encoding="utf-8") as file:
        before = list(csv.DictReader(file))
    assert len(now) == len(before)
    changed = [(old, new) for old, new in zip(before, now, strict=True) if old != new]
    assert not changed, f"{len(changed)} rows differ, first: {changed[0]}"


def write(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
