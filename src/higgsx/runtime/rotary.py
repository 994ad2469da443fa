"""Rotary positions: what a configuration says about them, in its old and its new spelling, and the tables.

Frequencies are computed as the models were trained with them: in float32, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from higgsx.runtime.config import Fields, unknown
from higgsx.runtime.design import Rope

LAYER_TYPES = ("full_attention", "sliding_attention")
_KEYS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
"""Kinds that do not depend on the length of the text, and the keys of each."""


def rope_parameters(fields: Fields, layer_type: str | None = None) -> Mapping[str, object]:
    """`rope_parameters` (or `rope_scaling`, its older name), those of one type of layer where they differ."""
    new, old = fields.raw("rope_parameters"), fields.raw("rope_scaling")
    found = old or new or {}
    if not isinstance(found, Mapping):
        raise unknown("is no object", "rope_parameters", got=found)
    nested = [key for key in found if key in LAYER_TYPES]
    if not nested:
        return found
    if layer_type is None or set(found) - set(LAYER_TYPES):
        raise unknown("differs from layer to layer", "rope_parameters", got=sorted(map(str, found)))
    inner = found.get(layer_type)
    if not isinstance(inner, Mapping):
        raise unknown("has no rotary positions for some layers", "rope_parameters", got=inner)
    return inner


def rope_of(
    parameters: Mapping[str, object],
    head_dim: int,
    positions: int,
    *,
    theta: float,
    partial: float = 1.0,
    may_be_partial: bool = False,
) -> Rope:
    """theta, partial: used where the parameters do not say; partial: share of a head that is rotated."""
    fields = Fields(parameters, "rope_parameters.")
    kind = fields.raw("rope_type") or fields.raw("type") or "default"
    fields.raw("type")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise unknown("kind of rotary positions is not known", "rope_parameters", got=kind)
    theta = fields.number("rope_theta", theta)
    share = fields.number("partial_rotary_factor", partial)
    if share != 1 and not may_be_partial or share > 1:
        raise unknown("rotates a part of each head", "partial_rotary_factor", got=share)
    width = int(head_dim * share)
    if width < 2 or width % 2:
        raise unknown("rotates an odd number of dimensions", "rope_parameters", got=width)
    frequencies = (np.float32(1) / _powers(theta, width)).astype(np.float32)
    factor = 1.0
    if kind == "linear":
        frequencies = frequencies / np.float32(fields.number("factor"))
    elif kind == "llama3":
        frequencies = _llama3(frequencies, fields, positions)
    elif kind == "yarn":
        frequencies, factor = _yarn(theta, width, fields, positions)
    fields.finish()
    return Rope(False, tuple(float(f) for f in frequencies), factor)


def _powers(theta: float, width: int) -> np.ndarray:
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)


def plain_frequencies(width: int, theta: float = 10000.0) -> tuple[float, ...]:
    return tuple(float(f) for f in np.float32(1) / _powers(theta, width))


def _llama3(frequencies: np.ndarray, fields: Fields, positions: int) -> np.ndarray:
    """Llama 3.1: long waves are stretched, short ones stay, those between are mixed."""
    factor = fields.number("factor")
    low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
    trained = fields.count("original_max_position_embeddings", positions)
    if low == high:
        raise unknown("low and high frequency factor are equal", "rope_parameters", got=low)
    waves = np.float32(2 * math.pi) / frequencies
    stretched = np.where(waves > trained / low, frequencies / np.float32(factor), frequencies)
    smooth = (np.float32(trained) / waves - np.float32(low)) / np.float32(high - low)
    mixed = (np.float32(1) - smooth) * stretched / np.float32(factor) + smooth * stretched
    between = ~(waves < trained / high) & ~(waves > trained / low)
    return np.where(between, mixed, stretched).astype(np.float32)


def _yarn(theta: float, width: int, fields: Fields, positions: int) -> tuple[np.ndarray, float]:
    """YaRN (Peng et al. 2023): a ramp over the dimensions between stretched and plain frequencies."""
    trained = fields.count("original_max_position_embeddings", positions)
    factor = fields.number("factor", positions / trained)
    fast, slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    scale = fields.number("mscale", 0.0, least=-1.0)
    scale_all = fields.number("mscale_all_dim", 0.0, least=-1.0)
    sure = _yarn_scale(factor, scale) / _yarn_scale(factor, scale_all) if scale and scale_all else None
    attention = fields.number("attention_factor", _yarn_scale(factor) if sure is None else sure)
    low, high = (_yarn_dimension(turns, width, theta, trained) for turns in (fast, slow))
    if fields.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(width // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    powers = _powers(theta, width)
    plain, stretched = np.float32(1) / powers, np.float32(1) / (np.float32(factor) * powers)
    keep = np.float32(1) - ramp
    return (stretched * (np.float32(1) - keep) + plain * keep).astype(np.float32), attention


def _yarn_scale(factor: float, scale: float = 1.0) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _yarn_dimension(turns: float, width: int, theta: float, trained: int) -> float:
    return (width * math.log(trained / (turns * 2 * math.pi))) / (2 * math.log(theta))


def tables(rope: Rope, positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float32 `[positions, rotated / 2]`."""
    frequencies = np.asarray(rope.frequencies, dtype=np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies
    factor = np.float32(rope.factor)
    return np.cos(angles) * factor, np.sin(angles) * factor
