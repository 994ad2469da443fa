"""What docs/format.md prints is what the code holds."""

from __future__ import annotations

import re
from pathlib import Path

from higgsx.codecs.grids import TABLES
from higgsx.hgs import layout
from higgsx.hgs.digest import MAGIC, RECORD_BYTES
from higgsx.hgs.manifest import ASSETS, VERSION

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def test_tables_are_printed() -> None:
    for name, levels in TABLES.items():
        row = re.search(rf"\| `{name}` \| (.*) \|", PAGE)
        assert row is not None, name
        assert tuple(int(level.replace("−", "-")) for level in row[1].split()) == levels


def test_names_of_assets_are_printed() -> None:
    begin = PAGE.index("Its name MUST be one of")
    assert set(re.findall(r"`([^`]+)`", PAGE[begin : PAGE.index("An empty asset", begin)])) == ASSETS


def test_numbers_are_printed() -> None:
    fill = layout.TAIL_BYTES - RECORD_BYTES
    assert f"{fill:,} zero bytes, then the 16 bytes `{MAGIC.decode()}`" in PAGE
    assert f"shape `[{layout.DAMAGE_BYTES}]`" in PAGE and f"shape `[{layout.TAIL_BYTES}]`" in PAGE
    assert f"version {VERSION} (draft)" in PAGE
    assert f"`{' '.join(layout.DTYPE_BYTES)}`" in PAGE
    assert (layout.MAX_HEADER, layout.MAX_ARRAYS, layout.MAX_BYTES) == (1 << 26, 1 << 18, 1 << 48)
    assert "at most 2²⁶" in PAGE and "at most 2¹⁸ arrays" in PAGE and "at most 2⁴⁸" in PAGE
