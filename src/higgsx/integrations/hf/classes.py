"""A configuration from anyone → a configuration object and a model class, both of transformers itself.

Nothing here follows a name from a file into Python: classes are looked up in the tables of transformers'
`Auto` classes, by the type of the configuration. Keys that could load code or files are refused or left
out, at any depth.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from higgsx.errors import ModelError

_REFUSED = re.compile(r"auto_map|trust_remote_code|custom_pipelines|custom_generate|_.*_internal")
"""Keys that ask for code which does not belong to transformers."""
_DROPPED = frozenset(
    {
        "name_or_path",
        "transformers_weights",
        "transformers_version",
        "attn_implementation",
        "experts_implementation",
        "fusion_config",
        "kernel_config",
        "use_kernels",
        "distributed_config",
        "tp_plan",
        "generation_config",
    }
)
"""Keys that name files or kernels, or say how somebody once ran the model: not part of what it is."""
_DTYPES = frozenset({"float64", "float32", "float16", "bfloat16"})
_MAX_DEPTH = 16
_MAX_LAYERS = 4096
_MAX_POSITIONS = 1 << 25
_MAX_NUMBER = 1 << 48
_COUNT = re.compile(r"(^|_)(layers?|blocks?|depth|num_hidden_groups)($|_)")
_POSITIONS = re.compile(r"(^|_)positions?($|_)|max_.*length")

_FIRST = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "IMAGE_TEXT_TO_TEXT",
    "MASKED_LM",
    "SEQUENCE_CLASSIFICATION",
    "CTC",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
)
"""Tasks in the order in which a configuration without an architecture is tried."""


def safe_config(config: Mapping[str, object], where: str = "config.json") -> dict[str, Any]:
    """A copy without the keys that have no business in a file from anyone.

    where  what an error calls it
    ModelError for a key that asks for foreign code, and for nesting without end.
    """
    return dict(_cleaned(config, where, 0))


def _cleaned(config: Mapping[str, object], where: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _MAX_DEPTH:
        raise ModelError("nested too deeply", where=where, expected=f"at most {_MAX_DEPTH} levels")
    for name, value in config.items():
        key = str(name)
        place = f"{where}: {key}"
        if _REFUSED.fullmatch(key) and value not in (None, False):
            raise ModelError(
                "asks for code from outside transformers, which is never run", where=place,
                remedy="only architectures that transformers itself contains can be used",
            )  # fmt: skip
        if key in _DROPPED or _REFUSED.fullmatch(key) or key.removeprefix("_") in _DROPPED:
            continue
        yield name, _cleaned_value(value, place, depth + 1)


def _cleaned_value(value: object, where: str, depth: int) -> Any:
    if isinstance(value, Mapping):
        return dict(_cleaned(value, where, depth))
    if isinstance(value, (list, tuple)):
        if depth > _MAX_DEPTH:
            raise ModelError("nested too deeply", where=where, expected=f"at most {_MAX_DEPTH} levels")
        return [_cleaned_value(inner, where, depth + 1) for inner in value]
    return value


def _check_sizes(config: object, where: str) -> None:
    """Refuse what would take memory or time out of proportion before a single shape is compared."""
    if isinstance(config, list):
        for inner in config:
            _check_sizes(inner, where)
    if isinstance(config, Mapping):
        for key, value in config.items():
            place = f"{where}: {key}"
            _check_value(str(key), value, place)
            _check_sizes(value, place)


def _check_value(key: str, value: object, where: str) -> None:
    is_dtype = key in ("dtype", "torch_dtype") and value is not None
    if is_dtype and str(value).removeprefix("torch.") not in _DTYPES:
        known = ", ".join(sorted(_DTYPES))
        raise ModelError("unknown dtype", where=where, got=repr(value)[:80], expected=known)
    if key == "use_pretrained_backbone" and value:
        raise ModelError("asks to download another model", where=where, remedy="set it to false")
    if type(value) is not int:
        return
    most = _MAX_NUMBER
    if _COUNT.search(key):
        most = _MAX_LAYERS
    elif _POSITIONS.search(key):
        most = _MAX_POSITIONS
    if abs(value) > most:
        raise ModelError("unreasonable size", where=where, got=value, expected=f"at most {most}")


def config_of(config: Mapping[str, object]) -> Any:
    """The configuration object for a `config.json`. ModelError where transformers has no such model type,
    where it is quantized already by another method, or where the values do not make a model."""
    cleaned = safe_config(config)
    _check_sizes(cleaned, "config.json")
    quantized = cleaned.pop("quantization_config", None)
    if quantized:
        method = quantized.get("quant_method", "unknown") if isinstance(quantized, Mapping) else "unknown"
        raise ModelError(
            "is already quantized",
            where="config.json",
            got=f"method {method}",
            remedy="give the original model",
        )
    model_type = cleaned.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            "transformers has no such model type", where="config.json", got=repr(model_type)[:80],
            remedy="a newer transformers may have it; code that comes with a model is never run",
        )  # fmt: skip
    kind = CONFIG_MAPPING[model_type]
    # private keys are attributes of the object, unless the class declares them
    declared = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    cleaned = {key: value for key, value in cleaned.items() if not key.startswith("_") or key in declared}
    try:
        return kind.from_dict(cleaned)
    except Exception as error:  # configuration classes validate with many kinds of exceptions
        raise ModelError(
            "not a valid configuration", where=f"config.json ({model_type})", got=first_line(error)
        ) from error


def class_of(config: Any) -> type[PreTrainedModel]:
    """The model class of a configuration object: its first `architectures`, else by the kind of model.

    Only classes in the tables of the `Auto` classes for this type of configuration are considered.
    """
    candidates = _candidates(type(config))
    wanted = getattr(config, "architectures", None)
    name = wanted[0] if isinstance(wanted, list) and wanted else None
    if name is not None:
        if name in candidates:
            return candidates[name]
        raise ModelError(
            "transformers has no such architecture for this model type", where="config.json: architectures",
            got=repr(name)[:80], expected=", ".join(sorted(candidates)) or "none",
        )  # fmt: skip
    if not candidates:
        raise ModelError(
            "transformers has no model for this type", where="config.json", got=type(config).__name__
        )
    return next(iter(candidates.values()))


def _candidates(kind: type) -> dict[str, type[PreTrainedModel]]:
    """Classes for a type of configuration by name, the most telling task first, the bare model last."""
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING") for task in _FIRST]
    others = [
        table
        for name, table in sorted(vars(modeling_auto).items())
        if re.fullmatch(r"MODEL_.*_MAPPING", name)
    ]
    found: dict[str, type[PreTrainedModel]] = {}
    bare = modeling_auto.MODEL_MAPPING
    for table in [*tables, *(table for table in others if table is not bare), bare]:
        if kind not in table:
            continue
        entry = table[kind]
        for cls in entry if isinstance(entry, (tuple, list)) else (entry,):
            if isinstance(cls, type) and issubclass(cls, PreTrainedModel):
                found.setdefault(cls.__name__, cls)
    return found


def dtype_of(config: Any) -> torch.dtype:
    """What the configuration says the weights are in; float32 where it says nothing."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def skeleton(cls: type[PreTrainedModel], config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The model on the meta device, its ties made. ModelError where the class refuses the configuration.

    Attention is the plain one: the others look into their masks, which have no values there.
    """
    config = copy.deepcopy(config)
    try:
        with torch.device("meta"):
            model = cls._from_config(
                config, dtype=dtype, attn_implementation="eager", experts_implementation="batched_mm"
            )
    except Exception as error:  # anything can go wrong in code that trusts its configuration
        raise ModelError(
            "the configuration does not make a model", where=cls.__name__, got=first_line(error)
        ) from error
    _tie(model)
    return model.eval()


def _tie(model: PreTrainedModel) -> None:
    """Ties that are missing: a loader switches them off for everybody while it builds its own model."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        if target in parameters and source in parameters and parameters[target] is not parameters[source]:
            owner, _, leaf = target.rpartition(".")
            setattr(model.get_submodule(owner), leaf, parameters[source])


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
