"""Bytes and distortion of every rounding but `rtn`, as `roundings.csv` has them; see `test_codecs.py`."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

from blake3 import blake3
from test_codecs import matrices

from higgsx.codecs.base import MatrixShape
from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec
from higgsx.codecs.uniform import Uniform
from higgsx.rounding.base import exponent_for
from higgsx.rounding.table import ROUNDINGS

TABLE = Path(__file__).with_name("roundings.csv")
FORMS: tuple[PanelCodec, ...] = (
    *(Codebook.plain(table, 64) for table in ("gauss4", "gauss8", "gauss16", "gauss32")),
    Codebook.plain("gauss16", 0),
    Uniform.symmetric(4, 64),
    Uniform.symmetric(8, 0),
    *(Uniform(4, 64, "u8", zero, 0, 0) for zero in ("u8", "f16", "min")),
    Uniform(2, 32, "f16", "min", 0, 0),
)


def rows() -> list[dict[str, str]]:
    found = []
    for rounding in ROUNDINGS:
        for name, x in matrices().items() if rounding.name != "rtn" else ():
            for form in FORMS:
                codec = dataclasses.replace(form, exponent=exponent_for(form, x.abs().max()))  # type: ignore[type-var]
                payload, of_rows = codec.pack(*rounding.round(codec, x))
                arrays = {"_hgs": payload} if of_rows is None else {"_hgs": payload, "_hgsr": of_rows}
                decoded = codec.decode(arrays, MatrixShape(x.shape[1], x.shape[0])).t()
                error = (decoded.double() - x).square().sum() / x.double().square().sum()
                digest = blake3(b"".join(array.numpy().tobytes() for array in arrays.values())).hexdigest()
                found.append({
                    "rounding": rounding.name, "matrix": name, "codec": form.id, "form": form.label,
                    "error": f"{float(error):.4g}", "digest": digest[:12],
                })  # fmt: skip
    return found


def test_bytes_and_distortion_are_as_before() -> None:
    with TABLE.open(newline="", encoding="utf-8") as file:
        before = list(csv.DictReader(file))
    now = rows()
    assert len(now) == len(before)
    changed = [(old, new) for old, new in zip(before, now, strict=True) if old != new]
    assert not changed, f"{len(changed)} rows differ, first: {changed[0]}"


if __name__ == "__main__":
    table = rows()
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
