"""A scale for each input channel, written as text: one character of `ALPHABET` for each.

Character n stands for the scale 2^((n − 32) / 4). Weights are multiplied by it before they are rounded and
divided by it after they are decoded, activations are divided by it. (Lin et al. 2024, AWQ, scale channels of
weights whose activations are large; quarter octaves cost half a percent of what exact scales win.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from higgsx.errors import FormatError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ONE = 32
"""Place in the alphabet of the scale 1."""
STEPS = 4
"""Steps of an octave."""
_QUARTERS = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429], dtype=np.float32)
_PLACES = {letter: place for place, letter in enumerate(ALPHABET)}


def to_text(steps: np.ndarray) -> str:
    """Whole numbers of quarter octaves `[channels]`; what is beyond the alphabet becomes its end."""
    return "".join(ALPHABET[place] for place in np.clip(steps + ONE, 0, len(ALPHABET) - 1).astype(int))


def check(text: object) -> None:
    """FormatError for what is no such text."""
    if type(text) is not str or not set(text) <= _PLACES.keys():
        raise FormatError("not channel scales", got=repr(text)[:80], expected=ALPHABET, code="CODEC")


def scales(text: str) -> np.ndarray:
    """float32 `[channels]`: what weights are multiplied by."""
    return _powers(_steps(text))


def reciprocals(text: str) -> np.ndarray:
    """float32 `[channels]`: what decoded weights and activations are multiplied by. Normative."""
    return _powers(-_steps(text))


@lru_cache(maxsize=512)
def _steps(text: str) -> np.ndarray:
    return np.array([_PLACES[letter] - ONE for letter in text], dtype=np.int32)


def _powers(steps: np.ndarray) -> np.ndarray:
    """2^(steps / 4): one of four constants times a power of two, which is exact."""
    return np.ldexp(_QUARTERS[steps % STEPS], steps // STEPS)
