"""The smallest input that takes a model through all of its weights, found from its signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

TOKENS = 8
_FRAMES = 128
_SAMPLES = 8000


def ways(model: PreTrainedModel) -> list[tuple[str, ...]]:
    """Sets of masks to call a model with, the most likely first. It is a matter of structure: without a mask
    a decoder looks into its positions, with one an encoder looks into the mask, and on the meta device
    neither can."""
    if _is_encoder_decoder(model):
        return [("decoder_attention_mask",), (), ("attention_mask", "decoder_attention_mask")]
    return [("attention_mask",), ()] if model.can_generate() else [(), ("attention_mask",)]


def tiny(model: PreTrainedModel, masks: tuple[str, ...]) -> dict[str, Any]:
    """Keyword arguments of one forward pass, on the model's device, batch 1.

    masks  those of `ways`, given where the signature has them
    """
    signature = inspect.signature(model.forward).parameters
    device = _device(model)
    main = model.main_input_name
    found: dict[str, Any] = {}
    if main in ("input_ids", "decoder_input_ids") or (_has_two_towers(model) and "input_ids" in signature):
        found["input_ids"] = _ids(model, device)
    if main == "input_features":
        found[main] = torch.zeros(1, *_spectrum(model.config), dtype=model.dtype, device=device)
    if main == "input_values":
        found[main] = torch.zeros(1, _SAMPLES, dtype=model.dtype, device=device)
    if main == "pixel_values" or (_has_two_towers(model) and "pixel_values" in signature):
        found["pixel_values"] = torch.zeros(1, *picture(model.config), dtype=model.dtype, device=device)
    if _is_encoder_decoder(model) and "decoder_input_ids" in signature:
        found["decoder_input_ids"] = _ids(model, device)
    for mask in masks:
        if mask in signature and mask.replace("attention_mask", "input_ids") in found:
            found[mask] = torch.ones(1, TOKENS, dtype=torch.int64, device=device)
    if "use_cache" in signature:
        found["use_cache"] = False
    return found


def _is_encoder_decoder(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _has_two_towers(model: PreTrainedModel) -> bool:
    """Text and pictures side by side, compared at the end; a model that writes text sees text alone here."""
    config = model.config
    return hasattr(config, "text_config") and hasattr(config, "vision_config") and not model.can_generate()


def _device(model: PreTrainedModel) -> torch.device:
    return next(iter(model.parameters())).device


def _ids(model: PreTrainedModel, device: torch.device) -> torch.Tensor:
    text = model.config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None) or TOKENS
    return (torch.arange(TOKENS, device=device) % vocabulary)[None]


def _spectrum(config: Any) -> tuple[int, int]:
    """Channels and frames; a model with learned positions accepts exactly twice as many frames."""
    positions = getattr(config, "max_source_positions", None)
    channels = getattr(config, "num_mel_bins", None)
    if channels is not None and positions is not None:
        return channels, 2 * positions
    return _FRAMES, _field(config, "input_feat_per_channel", 80) if channels is None else channels


def picture(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of what the model sees."""
    vision = getattr(config, "vision_config", config)
    size = _field(vision, "image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return _field(vision, "num_channels", 3), height, width


def _field(config: Any, name: str, default: Any) -> Any:
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return default if value is None else value
