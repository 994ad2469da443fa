"""The quantizer that transformers calls while it loads and saves a model."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.base import HfQuantizer

from higgsx.codecs.base import torch_dtype
from higgsx.descriptor import Descriptor
from higgsx.errors import ModelError
from higgsx.integrations.hf import attention
from higgsx.integrations.hf.config import HiggsxConfig
from higgsx.integrations.hf.ties import pack_all
from higgsx.nn.densify import densify
from higgsx.nn.packed import packed_of, packed_parameters

if TYPE_CHECKING:
    # transformers imports this module from within the import of its own models
    from transformers import PreTrainedModel

_CANARY = b"these weights need the package higgsx: pip install higgsx"
"""Content of the tensor that keeps the folder from loading without us: it stands under the name of a weight
and has a shape that no weight has, so that transformers raises instead of starting from random numbers."""
_log = logging.getLogger("higgsx")


class HiggsxQuantizer(HfQuantizer):
    """Two ways in: weights that are compressed already (a saved folder, a `.hgs`), whose modules are made
    ready before loading; and ordinary weights, which are encoded one by one as they arrive."""

    quantization_config: HiggsxConfig
    requires_calibration = False

    def __init__(self, quantization_config: HiggsxConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.dtype = torch.get_default_dtype()
        self.plan: dict[str, Descriptor] = {}
        self._made: set[str] = set()

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        attention.register()
        if self.pre_quantized and not self.quantization_config.tensors:
            raise ModelError(
                "nothing is said about what is compressed", where="config.json: quantization_config: tensors"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        self.dtype = dtype
        return dtype

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        if self.pre_quantized:
            described = self.quantization_config.descriptors()
            _expect(model, canaries(described))
            self.pack(model, _placed(model, described))
            return
        from higgsx.integrations.hf.onthefly import plan

        self.plan = plan(self.quantization_config, model, checkpoint_files)
        others = {one.dtype for one in self.plan.values() if torch_dtype(one.dtype) != self.dtype}
        if others:
            _log.warning(
                "weights are cast to %s before they are compressed; higgsx.compress and dtype='auto' do not",
                str(self.dtype).removeprefix("torch."),
            )

    def update_weight_conversions(
        self, weight_conversions: list[Any], model: PreTrainedModel | None = None
    ) -> list[Any]:
        # a saved folder has the model's own names and shapes, which must not be converted a second time
        settled = self.pre_quantized and self.quantization_config.names == "model"
        return [] if settled else weight_conversions

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.plan

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: torch.Tensor) -> float:
        descriptor = self.plan.get(param_name)
        return param.element_size() if descriptor is None else descriptor.nbytes() / descriptor.weights

    def get_quantize_ops(self) -> Any:
        from higgsx.integrations.hf.onthefly import Encode

        return Encode(self)

    def pack(self, model: PreTrainedModel, descriptors: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
        """Make modules ready for compressed weights; returns which, tied copies included."""
        made = pack_all(model, descriptors, RunDtypes(model, self.dtype))
        self._made |= made.keys()
        return made

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        self.plan = {}
        self.quantization_config.tensors = tensors_of(model)
        lost = sorted(self._made - self.quantization_config.tensors.keys())
        if lost:
            what = "transformers wrote over compressed weights while loading"
            raise ModelError(what, where=type(model).__name__, got=", ".join(lost[:5]))
        self.quantization_config.names = "model"
        # what was renamed while loading is not renamed back: saved folders have the model's own names
        model._weight_conversions = []  # type: ignore[assignment]
        return model

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, torch.Tensor] | None, dict[str, str]]:
        if getattr(model, "_hf_peft_config_loaded", False):
            return None, {}
        # modules may have become dense since loading, so the list is made from what is there now
        tensors = tensors_of(model)
        self.quantization_config.tensors = tensors
        state = _own_memory(model.state_dict())
        for name in canaries({name: Descriptor.from_json(one) for name, one in tensors.items()}):
            state[name] = torch.frombuffer(bytearray(_CANARY), dtype=torch.uint8)
        return state, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_compileable(self) -> bool:
        return True

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        densify(model)
        if isinstance(dtype, torch.dtype) and dtype != self.dtype:
            dtypes = RunDtypes(model, dtype)
            for name, parameter in model.named_parameters():
                # not `model.to`: it would round the tables that models keep in float32 for their positions
                parameter.data = parameter.data.to(dtypes(name))
        return model


def canaries(described: Mapping[str, Descriptor]) -> list[str]:
    """The weights under whose names canaries stand: one matrix of each larger part of the model (encoder,
    decoder, head), so that a class which loads only some of the parts meets one too."""
    found: dict[str, str] = {}
    for name in sorted(described):
        if described[name].axes in ("oi", "io"):
            found.setdefault(".".join(name.split(".")[:2]), name)
    return sorted(found.values())


def _expect(model: PreTrainedModel, names: list[str]) -> None:
    """Tell the loader that these tensors have no place in the model."""
    known = model._keys_to_ignore_on_load_unexpected or ()
    model._keys_to_ignore_on_load_unexpected = {*known, *(f"^{re.escape(name)}$" for name in names)}


def tensors_of(model: torch.nn.Module) -> dict[str, dict[str, object]]:
    """Descriptors of everything that is compressed in a model, by parameter name."""
    found = {}
    for path, module in model.named_modules():
        for parameter in packed_parameters(module):
            name = f"{path}.{parameter}" if path else parameter
            found[name] = dict(packed_of(module, parameter).descriptor.to_json())
    return found


def _placed(model: PreTrainedModel, described: Mapping[str, Descriptor]) -> dict[str, Descriptor]:
    """The described tensors that this class of model has, by its own names: a head that it lacks is left
    out, the prefix of the base model added or removed, as transformers does with ordinary weights."""
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    prefix = f"{model.base_model_prefix}."
    found = {}
    for name, descriptor in described.items():
        for candidate in (name, name.removeprefix(prefix), prefix + name):
            if candidate in names:
                found[candidate] = descriptor
                break
    if not found:
        raise ModelError(
            "none of the compressed tensors belongs to this model", where=type(model).__name__,
            got=", ".join(list(described)[:3]),
        )  # fmt: skip
    return found


class RunDtypes:
    """Run dtypes by parameter name, with the modules that transformers keeps in float32."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self._dtype = dtype
        plan: dict[str, torch.dtype] = model._get_dtype_plan(dtype)
        self._kept = [(re.compile(pattern.replace("*", ".*")), kept) for pattern, kept in plan.items()]

    def __call__(self, name: str) -> torch.dtype:
        return next((kept for pattern, kept in self._kept if pattern.search(name)), self._dtype)


def _own_memory(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that are pieces of one memory, copied apart: a safetensors file refuses them otherwise. Names
    of the same piece stay the same."""
    copies: dict[tuple[int, int], torch.Tensor] = {}
    found = {}
    for name, tensor in state.items():
        if not tensor.is_meta and tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size():
            place = (tensor.data_ptr(), tensor.numel())
            tensor = copies.setdefault(place, tensor.clone())
        found[name] = tensor
    return found
