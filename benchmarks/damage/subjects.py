"""Which models are measured, on which material; what gradients may learn from is never measured on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import _DATA, REAL, REAL_MODELS, ROOT, SHARED, SMALL_MODELS, folder_of, texts_of
from transformers import AutoTokenizer

from higgsx.fidelity.clips import find_clips

ENCODER, SPEECH, PAIRS = "all-minilm-l6-v2", "whisper-base", "g2p-bart-us"
OTHERS = (SPEECH, ENCODER, PAIRS, "whisper-digits-2m")


@dataclass(frozen=True)
class Subject:
    """check   held-back material by domain
    learn   what gradients learn from, other than `check`; None: what the package makes from nothing (for
            language models its own openings, continued by the model)
    window  tokens of a window, None: as the task likes it
    most    positions that count, at most, of each domain
    """

    name: str
    folder: Path
    check: Mapping[str, Path]
    learn: Path | None
    window: int | None
    most: int

    @property
    def here(self) -> bool:
        return (self.folder / "config.json").is_file()


def subject(name: str) -> Subject:
    if name == SPEECH:
        learn, check = _speech_lists()
        return Subject(name, REAL / name, {"clips": check}, learn, None, 1 << 20)
    if name == "whisper-digits-2m":
        digits = _DATA / "whisper-digits"
        return Subject(name, SHARED / name, {"digits": digits / "test"}, digits / "cal", None, 1 << 20)
    if name == ENCODER:
        text = _DATA / "text-en"
        return Subject(
            name, REAL / name, {"lines": text / "test.txt"}, text / "calibration.txt", None, 20_000
        )
    if name == PAIRS:
        pairs = _DATA / "g2p-bart-us"
        learn = pairs / "calibration.tsv"
        return Subject(name, SHARED / name, {"words": pairs / "test.tsv"}, learn, None, 4_000)
    texts = texts_of(name)
    window, count = (512, 2) if name in REAL_MODELS else (256, 12)
    return Subject(name, folder_of(name), texts, None, window, window * count)


def such_text(one: Subject, tokens: int = 8_192) -> Path:
    """For a language model: text of the same domains as its held-back one, with as many tokens of each."""
    tokenizer, each = AutoTokenizer.from_pretrained(one.folder), -(-tokens // len(one.check))
    parts = []
    for held_back in one.check.values():
        ids = tokenizer.encode((held_back.parent / "calibration.txt").read_text(), add_special_tokens=False)
        parts.append(tokenizer.decode(ids[:each]))
    _LISTS.mkdir(parents=True, exist_ok=True)
    made = _LISTS / f"{one.name}-such-text.txt"
    made.write_text("\n".join(parts))
    return made


def _speech_lists() -> tuple[Path, Path]:
    """Clips to learn from and to measure on, as ../shared/models/data/README.md divides them: the first eight
    of a reader, the other 24."""
    reader = _clips(_DATA / "lj-speech" / "refs.tsv")
    return _list("speech-learn", reader[:8]), _list("speech-check", reader[8:])


def _clips(table: Path) -> list[tuple[Path, str | None]]:
    """Sounds and what is said in them; none where the table is not there."""
    return find_clips(table) if table.is_file() else []


def _list(name: str, clips: list[tuple[Path, str | None]]) -> Path:
    _LISTS.mkdir(parents=True, exist_ok=True)
    made = _LISTS / f"{name}.tsv"
    lines = [f"{os.path.relpath(sound, _LISTS)}\t{text}\n" for sound, text in clips]
    made.write_text("".join(["file\ttext\n", *lines]))
    return made


_LISTS = ROOT / "benchmarks" / "out" / "lists"
ALL = (*REAL_MODELS, *OTHERS, *SMALL_MODELS)
