"""A Hugging Face model as the pipeline sees it: structure, names, a tiny call, and the original on demand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from higgsx.errors import ModelError, UsageError
from higgsx.integrations.hf import classes, inputs, shrink
from higgsx.integrations.hf import names as naming
from higgsx.integrations.hf.quiet import quiet

_SHOWN = 5


class Handle:
    """A model handle (`higgsx.tasks.ModelHandle`) made from a configuration.

    config         contents of config.json
    tensor_shapes  shapes of the checkpoint's tensors by name
    folder         where weights and tokenizer lie; None: structure only

    ModelError for a configuration that asks for foreign code or that transformers has no class for.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        tensor_shapes: Mapping[str, tuple[int, ...]],
        folder: Path | None = None,
    ) -> None:
        self.config = classes.config_of(config)
        self.cls: type[PreTrainedModel] = classes.class_of(self.config)
        self.dtype = classes.dtype_of(self.config)
        self._shapes = dict(tensor_shapes)
        self._folder = folder

    @property
    def folder(self) -> Path | None:
        """Where weights and tokenizer lie, None where there is only structure."""
        return self._folder

    def skeleton(self) -> PreTrainedModel:
        """A fresh model on the meta device in the checkpoint's dtype, evaluation mode, ties made."""
        # `call` must not try things out at its first use: whoever watches it would see them
        _ = self._masks
        return self._bare()

    def _bare(self) -> PreTrainedModel:
        return classes.skeleton(self.cls, self.config, self.dtype)

    def small(self) -> PreTrainedModel | None:
        """A small real instance of the same class, None where that cannot be made or does not run."""
        model = shrink.small(self.cls, self.config)
        if model is None:
            return None
        try:
            self.call(model)
        except Exception:  # whatever it is, there is nothing to try things out on
            return None
        return model

    def call(self, model: nn.Module) -> object:
        """A tiny forward pass without gradients or cache, on the device that the model is on."""
        if isinstance(self._masks, Exception):
            raise ModelError(
                "cannot be run without values", where=self.cls.__name__, got=classes.first_line(self._masks)
            ) from self._masks  # fmt: skip
        with torch.no_grad():
            return model(**inputs.tiny(_pretrained(model), self._masks))

    def tiny(self, model: nn.Module) -> dict[str, Any]:
        """The arguments of `call`."""
        if isinstance(self._masks, Exception):
            raise ModelError("cannot be run without values", where=self.cls.__name__) from self._masks
        return inputs.tiny(_pretrained(model), self._masks)

    @cached_property
    def _masks(self) -> tuple[str, ...] | Exception:
        """The way of calling that works without values, tried on a skeleton of its own; or why none does."""
        model = self._bare()
        first: Exception | None = None
        for masks in inputs.ways(model):
            try:
                with torch.no_grad():
                    model(**inputs.tiny(model, masks))
            except Exception as error:  # whatever it was, the next way may work
                first = first or error
                continue
            return masks
        return first or ()

    @cached_property
    def _names(self) -> naming.Names:
        model = self._bare()
        found = naming.match(model, self._shapes)
        wrong = naming.mismatches(model, found.mapped, self._shapes)
        if wrong:
            raise ModelError(
                "tensors do not have the shapes that the configuration asks for", where=self.cls.__name__,
                got=_some(wrong), remedy="configuration and weights do not belong together",
            )  # fmt: skip
        return found

    @property
    def names(self) -> Mapping[str, str]:
        """Checkpoint name → name in the model, for every tensor that stands there as it is."""
        return self._names.mapped

    @property
    def unmapped(self) -> Mapping[str, str]:
        """Checkpoint name → reason, for every other tensor: fused by the model, or unknown to it."""
        return self._names.unmapped

    @property
    def ignored(self) -> frozenset[str]:
        """Tensors of `unmapped` that the model's class leaves out on purpose."""
        return self._names.ignored

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Parameters of the model for which the checkpoint has nothing. Empty where it fuses tensors: what
        comes out of that is not known beforehand."""
        if any(naming.is_fused(why) for why in self.unmapped.values()):
            return ()
        return tuple(naming.missing(self._bare(), self.names.values()))

    def materialise(self, dtype: torch.dtype) -> PreTrainedModel:
        """The original on the CPU in `dtype`, evaluation mode. ModelError where weights are missing."""
        if self._folder is None:
            raise UsageError("there is no folder to load the weights from", where=self.cls.__name__)
        load: Any = self.cls.from_pretrained
        with quiet():
            model, info = load(
                self._folder, config=self.config, dtype=dtype, local_files_only=True, use_safetensors=True,
                output_loading_info=True,
            )  # fmt: skip
        if info["missing_keys"]:
            absent = _some(sorted(info["missing_keys"]))
            raise ModelError("weights are missing", where=self._folder, got=absent)
        made: PreTrainedModel = model.eval()
        return made

    def tokenizer(self) -> Any:
        """The tokenizer of the folder, None if there is none."""
        return self._tokenizer

    def processor(self) -> Any:
        """The processor of the folder (speech, pictures), None if there is none."""
        return self._processor

    # made once: it takes up to a second, and whoever makes batches asks several times
    @cached_property
    def _tokenizer(self) -> Any:
        from higgsx.integrations.hf.tokenizers import tokenizer_from

        return None if self._folder is None else tokenizer_from(self._folder)

    @cached_property
    def _processor(self) -> Any:
        from higgsx.integrations.hf.tokenizers import processor_from

        return None if self._folder is None else processor_from(self._folder)


def _pretrained(model: nn.Module) -> PreTrainedModel:
    if not isinstance(model, PreTrainedModel):
        raise UsageError("not a transformers model", got=type(model).__name__)
    return model


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
