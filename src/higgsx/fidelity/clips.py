"""Sounds that a user brings: wav files, with or without what is said in them."""

from __future__ import annotations

import io as memory
import os
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from higgsx import io
from higgsx.errors import TextError
from higgsx.fidelity.material import read_pairs

MOST_BYTES = 256 * 2**20
LISTS = ("refs.tsv", "transcripts.tsv", "metadata.jsonl")
"""Files beside the sounds, or one folder above, that say what is spoken."""
SHORTEST = 0.05
"""Seconds."""


@dataclass(frozen=True)
class Clip:
    """samples  float32 [n] from -1 to 1, one channel
    text     what is said in it, None if nobody wrote it down
    """

    name: str
    samples: Tensor
    text: str | None


def read_wav(path: str | os.PathLike[str], rate: int, longest: float | None = None) -> Tensor:
    """Samples of a wav file, float32 [n] from -1 to 1; several channels are averaged.

    rate     samples per second that the model hears; a file of another rate is refused, not changed
    longest  seconds at most, None: any length
    TextError: no wav file, another rate, empty, too short or too long, nothing but silence.
    """
    convert = f"convert it: ffmpeg -i {Path(path).name} -ar {rate} -ac 1 -c:a pcm_s16le out.wav"
    raw = io.read_bytes(path, limit=MOST_BYTES)
    try:
        with wave.open(memory.BytesIO(raw)) as file:
            channels, width, found = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        what = raw[:4] if raw[:4].isalnum() else b""
        raise TextError(
            "not a wav file of plain samples", where=path, got=str(error) or repr(what), remedy=convert
        ) from None
    if found != rate:
        raise TextError(
            "wrong sampling rate", where=path, got=f"{found} Hz", expected=f"{rate} Hz", remedy=convert
        )
    samples = _numbers(data[: len(data) // (channels * width) * channels * width], width, path)
    samples = samples.reshape(-1, channels).mean(1)
    seconds = len(samples) / rate
    if seconds < SHORTEST:
        raise TextError(
            "the sound is empty or too short", where=path, got=f"{seconds:.3f} s",
            expected=f"{SHORTEST} s or more",
        )  # fmt: skip
    if longest is not None and seconds > longest:
        raise TextError(
            "the sound is longer than the model hears at once", where=path, got=f"{seconds:.1f} s",
            expected=f"{longest:g} s at most", remedy="cut it into pieces, each with its own transcript",
        )  # fmt: skip
    if not samples.any():
        raise TextError("the sound is silent from beginning to end", where=path)
    return torch.from_numpy(samples)


def _numbers(data: bytes, width: int, where: object) -> NDArray[np.float32]:
    """Little-endian samples of 1 (unsigned) to 4 bytes as float32 from -1 to 1."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if width not in (2, 3, 4):
        raise TextError("samples of an unknown width", where=where, got=f"{width} bytes")
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, 4 - width :] = raw
    return (wide.view("<i4")[:, 0].astype(np.float64) / 2.0**31).astype(np.float32)


def find_clips(path: str | os.PathLike[str]) -> list[tuple[Path, str | None]]:
    """Sounds and what is said in them, in a fixed order: of a wav file, a folder of wav files, or a list
    (`file`, tab, `text`; or `.jsonl`). Transcripts come from the list, from one of `LISTS` in the folder or
    above it, or from `NAME.txt` beside `NAME.wav`. TextError where there is none, or a listed one is absent.
    """
    place = Path(path)
    if place.is_dir():
        sounds = sorted(one for one in place.iterdir() if one.suffix.lower() == ".wav")
        if not sounds:
            raise TextError("the folder holds no wav files", where=path)
        written = _written(place)
        return [(one, written.get(one) or _beside(one)) for one in sounds]
    if place.suffix.lower() in (".tsv", ".jsonl"):
        listed = read_pairs(place)
        absent = [name for name, _ in listed if not (place.parent / name).is_file()]
        if absent:
            raise TextError("the list names sounds that are not there", where=path, got=", ".join(absent[:3]))
        return [(place.parent / name, text) for name, text in listed]
    return [(place, _written(place.parent).get(place) or _beside(place))]


def _written(folder: Path) -> dict[Path, str]:
    """Sound → transcript, of the first list in the folder or above it."""
    for place in (folder, folder.parent):
        for name in LISTS:
            if (place / name).is_file():
                return {place / sound: text for sound, text in read_pairs(place / name)}
    return {}


def _beside(sound: Path) -> str | None:
    text = sound.with_suffix(".txt")
    return io.read_text(text, error=TextError).strip() or None if text.is_file() else None
