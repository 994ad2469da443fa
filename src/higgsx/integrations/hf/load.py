"""A transformers model from the tensors of an opened file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from higgsx.descriptor import Descriptor
from higgsx.errors import HiggsxError, ModelError
from higgsx.integrations.hf import attention, classes
from higgsx.integrations.hf import names as naming
from higgsx.integrations.hf.boot import register
from higgsx.integrations.hf.config import METHOD, VERSION
from higgsx.integrations.hf.quantizer import RunDtypes
from higgsx.integrations.hf.quiet import quiet
from higgsx.kernels import ops
from higgsx.kernels.packed import Packed

Weights = Mapping[str, tuple[Descriptor, Mapping[str, torch.Tensor]]]
"""Checkpoint name → what its bytes mean, and the stored arrays by suffix."""
_SHOWN = 5
_log = logging.getLogger("higgsx")


def load_model(
    weights: Weights,
    config: Mapping[str, object],
    *,
    ties: Iterable[Sequence[str]] = (),
    generation: Mapping[str, object] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    packed: bool = True,
    strict: bool = True,
) -> PreTrainedModel:
    """Build the model in evaluation mode.

    weights     arrays are used as they are where dtype and device allow it, so a mapped file must be mapped
                privately (copy on write): ordinary parameters can be trained
    config      contents of config.json, from anyone
    ties        checkpoint names that are one tensor; one of each is in `weights`
    generation  contents of generation_config.json
    dtype       run dtype; None: the one that the configuration names
    device      None: the CPU
    packed      keep weights compressed; False: decode them to the run dtype while loading
    strict      refuse tensors that the model has no place for; False: log them and leave them out
    ModelError for a configuration that makes no model, or weights that do not fit it, with their names.
    """
    settings = classes.config_of(config)
    cls = classes.class_of(settings)
    dtype = dtype or classes.dtype_of(settings)
    skeleton = classes.skeleton(cls, settings, dtype)
    shapes = {name: descriptor.shape for name, (descriptor, _) in weights.items()}
    found = naming.match(skeleton, shapes)
    skipped = _check(skeleton, weights, found, _tied_names(skeleton, ties, found, shapes), strict)
    dtypes = RunDtypes(skeleton, dtype)
    used = {name: pair for name, pair in weights.items() if name not in skipped}
    if packed:
        state, described = _stored(used, found)
        if described:
            names = "checkpoint" if any(name in found.unmapped for name in used) else "model"
            settings.quantization_config = {
                "quant_method": METHOD, "version": VERSION, "names": names, "tensors": described
            }  # fmt: skip
    else:
        place = None if device is None else torch.device(device)
        state = {
            name: _Decoded(*pair, dtypes(found.mapped.get(name, name)), place) for name, pair in used.items()
        }
    return _built(cls, settings, state, dtype, device, generation)


def _tied_names(
    model: PreTrainedModel, ties: Iterable[Sequence[str]], found: naming.Names, shapes: Mapping[str, object]
) -> set[str]:
    """The model's names of tied copies that the file does not store. ModelError for a tie that the model,
    as it is configured, does not have: it would lack those weights."""
    copies = {name for names in ties for name in names if name not in shapes}
    state = model.state_dict(keep_vars=True)
    stored = {id(state[target]) for target in found.mapped.values()}
    others = naming.match(model, copies)
    apart = [name for name, target in others.mapped.items() if id(state[target]) not in stored]
    if apart:
        raise ModelError("the file ties a tensor that the model does not", where=_some(apart))
    return set(others.mapped.values())


def _check(
    model: PreTrainedModel, weights: Weights, found: naming.Names, tied: set[str], strict: bool
) -> set[str]:
    """Names that are left out. ModelError where weights and model do not fit."""
    where = type(model).__name__
    wrong = naming.mismatches(model, found.mapped, {name: weights[name][0].shape for name in found.mapped})
    if wrong:
        raise ModelError(
            "tensors do not have the shapes that the configuration asks for", where=where, got=_some(wrong)
        )
    fused = [name for name, why in found.unmapped.items() if naming.is_fused(why)]
    compressed = [name for name in fused if not weights[name][0].is_dense]
    if compressed:
        raise ModelError(
            "the model fuses tensors that are compressed apart", where=where, got=_some(compressed)
        )
    skipped = set(found.unmapped) - set(fused)
    homeless = sorted(skipped - found.ignored)
    if homeless and strict:
        raise ModelError("the model has no place for some tensors", where=where, got=_some(homeless))
    if homeless:
        _log.warning("%s has no place for %s", where, _some(homeless))
    absent = [] if fused else naming.missing(model, {*found.mapped.values(), *tied})
    if absent:
        raise ModelError("the file lacks weights of the model", where=where, got=_some(absent))
    return skipped


def _stored(used: Weights, found: naming.Names) -> tuple[dict[str, Any], dict[str, dict[str, object]]]:
    """Stored arrays under the model's names, and the descriptors of what is compressed."""
    state: dict[str, Any] = {}
    described: dict[str, dict[str, object]] = {}
    for name, (descriptor, arrays) in used.items():
        target = found.mapped.get(name, name)
        if not descriptor.is_dense:
            described[target] = descriptor.to_json()
        for suffix, array in arrays.items():
            state[target + suffix] = array
    return state, described


class _Decoded:
    """A weight that is decoded when the loader asks for it, one at a time."""

    def __init__(
        self,
        descriptor: Descriptor,
        arrays: Mapping[str, torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | None,
    ) -> None:
        self.descriptor, self.arrays, self.dtype, self.device = descriptor, arrays, dtype, device

    def __getitem__(self, unused: object) -> torch.Tensor:
        if self.descriptor.is_dense:
            return self.arrays[""]
        arrays = {suffix: array.to(self.device) for suffix, array in self.arrays.items()}
        return ops.decode(Packed(self.descriptor, arrays, self.dtype))


def _built(
    cls: type[PreTrainedModel],
    config: Any,
    state: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str | None,
    generation: Mapping[str, object] | None,
) -> PreTrainedModel:
    register()
    attention.register()
    load: Any = cls.from_pretrained
    # a map for the CPU alone would make transformers think that something is offloaded there
    place = None if device is None or torch.device(device).type == "cpu" else {"": torch.device(device)}
    try:
        with quiet():
            generating = None if generation is None else _generation(generation)
            model, info = load(
                None, config=config, state_dict=state, dtype=dtype, generation_config=generating,
                output_loading_info=True, local_files_only=True, device_map=place,
            )  # fmt: skip
    except HiggsxError:
        raise
    except Exception as error:  # what a loader meets in a file from anyone
        raise ModelError(
            "transformers cannot load the weights", where=cls.__name__, got=classes.first_line(error)
        ) from error
    left = {
        what: sorted(map(str, info.get(what) or ()))
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    for what, names in left.items():
        if names:
            raise ModelError(
                f"the weights do not fit the model: {what.replace('_', ' ')}",
                where=cls.__name__,
                got=_some(names),
            )
    return model.eval()


def _generation(settings: Mapping[str, object]) -> GenerationConfig:
    return GenerationConfig.from_dict(classes.safe_config(settings, "generation_config.json"))


def _some(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
