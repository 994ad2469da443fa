"""Compressing while transformers loads: a plan made beforehand, one weight encoded at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps

from higgsx.descriptor import Descriptor
from higgsx.errors import UsageError
from higgsx.integrations.hf.config import HiggsxConfig
from higgsx.integrations.hf.ties import owner_of
from higgsx.nn.packed import packed_of, packed_parameters

if TYPE_CHECKING:
    from higgsx.integrations.hf.quantizer import HiggsxQuantizer


def plan(config: HiggsxConfig, model: PreTrainedModel, files: list[str] | None) -> dict[str, Descriptor]:
    """What becomes of each parameter that is to be compressed, by its name in the model.

    files  the checkpoint's safetensors files, all in one folder
    UsageError where there are none, BudgetError where no plan fits.
    """
    if config.tensors:
        described = config.descriptors()
    elif files:
        described = _planned(config, model, Path(files[0]).parent)
    else:
        raise UsageError(
            "there are no files to compress",
            where=type(model).__name__,
            remedy="load from a folder or a Hub id",
        )
    return {name: one for name, one in described.items() if not one.is_dense}


def _planned(config: HiggsxConfig, model: PreTrainedModel, folder: Path) -> dict[str, Descriptor]:
    """The plan that `higgsx.compress` makes of the same folder with the same options."""
    from higgsx.integrations.hf.model import HFModel
    from higgsx.pipeline.draft import descriptors_of
    from higgsx.pipeline.plan import make_plan
    from higgsx.pipeline.survey import survey
    from higgsx.pipeline.tables import obtain
    from higgsx.source.checkpoint import Checkpoint

    options = config.options()
    source = Checkpoint.open(folder)
    try:
        handle = HFModel(
            _config_of(model), {name: info.shape for name, info in source.tensors.items()}, folder
        )
        # transformers builds its model on the meta device meanwhile; what is read and tried here is real
        with torch.device("cpu"):
            items = survey(source, handle, options.policy, options.keep)
            have = obtain(source, handle, items, options, config.learning())
            chosen = make_plan(source, have.items, have.table, options)
        chosen.require_budget()
        descriptors = descriptors_of(have.items, chosen)
    finally:
        source.close()
    return {handle.names[name]: one for name, one in descriptors.items() if name in handle.names}


def _config_of(model: PreTrainedModel) -> Mapping[str, object]:
    config: dict[str, object] = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    return config | {"architectures": [type(model).__name__]}


class Encode(ConversionOps):
    """One weight, as it would stand in an ordinary model, to its stored arrays."""

    def __init__(self, quantizer: HiggsxQuantizer) -> None:
        self.quantizer = quantizer

    def convert(  # type: ignore[override]
        self,
        input_dict: dict[str, Any],
        model: PreTrainedModel | None = None,
        missing_keys: set[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        """Arrays by parameter name and suffix; modules and their tied copies are made ready for them."""
        if model is None:
            raise UsageError("a weight can only be compressed within its model", where="HiggsxQuantizer")
        found: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            weight = value[0] if isinstance(value, list) else value
            for suffix, array in self._encode(model, name, weight, missing_keys).items():
                found[name + suffix] = array.to(weight.device)
        return found

    def _encode(
        self, model: PreTrainedModel, name: str, weight: torch.Tensor, missing: set[str] | None
    ) -> dict[str, torch.Tensor]:
        from higgsx.pipeline.encode import encode_tensor

        method = self.quantizer.quantization_config.method
        descriptor, arrays = encode_tensor(weight.cpu(), self.quantizer.plan[name], method, name)
        owner, leaf = owner_of(model, name)
        if leaf in packed_parameters(owner):  # it was made ready together with its tied copy
            descriptor = packed_of(owner, leaf).descriptor
        made = self.quantizer.pack(model, {name: descriptor})
        if missing is not None:
            for each, one in made.items():
                missing.discard(each)
                missing.update(each + suffix for suffix in one.arrays())
        return arrays
