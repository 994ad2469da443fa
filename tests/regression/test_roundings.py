"""Bytes and distortion of every rounding but `rtn`, as `roundings.csv` has them; see `test_codecs.py`."""

from __future__ import annotations

from pathlib import Path

from kept import measured, require_as_before, write
from test_codecs import matrices

from higgsx.codecs.codebook import Codebook
from higgsx.codecs.panels import PanelCodec
from higgsx.codecs.uniform import Uniform
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
    return [
        {"rounding": rounding.name, "matrix": name, "codec": form.id, "form": form.label,
         "error": found["error"], "digest": found["digest"]}
        for rounding in ROUNDINGS
        for name, x in matrices().items() if rounding.name != "rtn"
        for form in FORMS
        for found in [measured(form, x, rounding.round)]
    ]  # fmt: skip


def test_bytes_and_distortion_are_as_before() -> None:
    require_as_before(TABLE, rows())


if __name__ == "__main__":
    write(TABLE, rows())
