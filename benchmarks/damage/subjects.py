"""Which models are measured, on which material; what gradients may learn from is never measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import _DATA, REAL, REAL_MODELS, SHARED, SMALL_MODELS, folder_of, texts_of

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
        clips = {"clips": _DATA / "lj-speech" / "refs.tsv"}
        return Subject(name, REAL / name, clips, None, None, 1 << 20)
    if name == "whisper-digits-2m":
        digits = _DATA / "whisper-digits"
        # its calibration clips hold 228 tokens, fewer than may be learned from
        return Subject(name, SHARED / name, {"digits": digits / "test"}, None, None, 1 << 20)
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


ALL = (*REAL_MODELS, *OTHERS, *SMALL_MODELS)
