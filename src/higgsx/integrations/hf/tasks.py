"""Which class of transformers does which kind of work, found in the tables of its `Auto` classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from higgsx import io
from higgsx.tasks import (
    Labels,
    LanguageModel,
    Outputs,
    Pairs,
    Pictures,
    SpeechToText,
    Task,
    TextVectors,
)
from higgsx.tasks.encoder import Pooling

_POOLING_FILES = ("1_Pooling/config.json", "pooling_config.json")
_POOLINGS: tuple[tuple[str, Pooling], ...] = (
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_cls_token", "first"),
    ("pooling_mode_lasttoken", "last"),
)


def task_of(cls: type[PreTrainedModel], config: Any, folder: Path | None) -> Task:
    """The task of a class; `Outputs` where its work is none that is known."""
    two = bool(getattr(config, "is_encoder_decoder", False))
    reads_text = cls.main_input_name == "input_ids"
    if reads_text and not two and _in(cls, config, "FOR_CAUSAL_LM", "FOR_IMAGE_TEXT_TO_TEXT"):
        return LanguageModel(_logits, PreTrainedModel.get_output_embeddings)
    if two and not reads_text and _in(cls, config, "FOR_SPEECH_SEQ_2_SEQ"):
        return SpeechToText()
    if two and reads_text and _in(cls, config, "FOR_SEQ_TO_SEQ_CAUSAL_LM"):
        return Pairs()
    if _in(cls, config, "FOR_IMAGE_CLASSIFICATION"):
        return Pictures()
    kinds = ("FOR_MASKED_LM", "FOR_SEQUENCE_CLASSIFICATION", "FOR_TOKEN_CLASSIFICATION")
    if reads_text and not two and _in(cls, config, *kinds):
        return Labels()
    if reads_text and not two and _in(cls, config, "", "FOR_TEXT_ENCODING"):
        return TextVectors(_pooling(folder))
    return Outputs()


def hides_words(cls: type[PreTrainedModel], config: Any) -> bool:
    """Whether the work is to find hidden words."""
    return _in(cls, config, "FOR_MASKED_LM")


def _in(cls: type[PreTrainedModel], config: Any, *tables: str) -> bool:
    """Whether a table of the `Auto` classes has this class for this type of configuration."""
    for table in tables:
        mapping = getattr(modeling_auto, f"MODEL_{table}_MAPPING" if table else "MODEL_MAPPING")
        if type(config) not in mapping:
            continue
        entry = mapping[type(config)]
        # a model whose weights are packed is of a subclass of its own
        if issubclass(cls, tuple(entry) if isinstance(entry, (tuple, list)) else entry):
            return True
    return False


def _pooling(folder: Path | None) -> Pooling:
    """What the folder says, else the mean over real tokens."""
    for name in _POOLING_FILES:
        if folder is not None and (folder / name).is_file():
            data = io.read_json(folder / name)
            for key, pooling in _POOLINGS:
                if isinstance(data, dict) and data.get(key):
                    return pooling
    return "mean"


def _logits(model: Any, window: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=window, use_cache=False).logits
    return logits
