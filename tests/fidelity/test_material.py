"""Lists of pairs, and how one list serves two parts."""

from __future__ import annotations

import pytest

from higgsx.errors import TextError
from higgsx.fidelity.material import read_pairs, share_of
from higgsx.fidelity.texts import part_of, text_windows
from higgsx.tasks import Encoder


def pairs(tmp_path, content, name="pairs.tsv"):
    path = tmp_path / name
    path.write_text(content)
    return read_pairs(path)


def test_tables_and_objects(tmp_path):
    expected = [("a b", "c"), ("d", "e f")]
    assert pairs(tmp_path, "a b\tc\n\nd\te f\n") == expected
    assert pairs(tmp_path, "Source\tTarget\na b\tc\nd\te f\tmore\n") == expected
    lines = '{"source": "a b", "target": "c"}\n{"input": "d", "output": "e f", "id": 3}\n'
    assert pairs(tmp_path, lines, "pairs.jsonl") == expected


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ("a\tb\nno tab here\n", "p.tsv", r"p\.tsv, line 2: not a pair, got 'no tab here'"),
        ("a\t \n", "p.tsv", "line 1: one side of the pair is empty"),
        ("source\ttarget\n", "p.tsv", "holds no pairs"),
        ("\n\n", "p.tsv", "empty"),
        ('{"source": "a"}\n', "p.jsonl", "line 1: not a pair.*source and target"),
        ('{"source": "a", "target": 3}\n', "p.jsonl", "not a pair"),
        ("[1, 2]\n", "p.jsonl", "not a pair"),
        ("{oops\n", "p.jsonl", "line 1"),
    ],
)
def test_what_is_no_pair_is_named_with_its_line(tmp_path, content, name, complaint):
    with pytest.raises(TextError, match=complaint):
        pairs(tmp_path, content, name)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 101])
def test_parts_of_shared_items_share_none_and_use_all(count):
    items = list(range(count))
    learned, measured = (share_of(items, part, True) for part in ("calibration", "check"))
    assert learned + measured == items and measured and len(learned) >= len(measured)
    assert share_of(items, "check", False) == items
    with pytest.raises(TextError, match="too little"):
        share_of(items[:1], "calibration", True)


def test_parts_of_a_shared_text_share_no_character(tmp_path):
    text = " ".join(f"word{number}" for number in range(400))
    learned, measured = part_of(text, "calibration"), part_of(text, "check")
    assert learned + measured == text and measured.startswith(" word")
    assert 0.75 < len(learned) / len(text) < 0.85
    path = tmp_path / "t.txt"
    path.write_text(text)
    coder = Encoder(lambda one: list(one.encode()), 256)
    seen = {
        part: b"".join(bytes(w[0].tolist()) for w in text_windows(path, coder, 64, part=part))
        for part in ("calibration", "check")
    }
    assert text.encode().startswith(seen["calibration"]) and seen["check"] in measured.encode()
    with pytest.raises(TextError, match="nothing is left for the check"):
        part_of("oneword", "check")
