"""A Hugging Face model as the whole pipeline needs it: built, called, continued, loaded from a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from higgsx.archive import Archive
from higgsx.errors import FormatError, ModelError
from higgsx.fidelity.quality import Judge
from higgsx.integrations.hf import material
from higgsx.integrations.hf.answers import Teller, Transcriber, Writer
from higgsx.integrations.hf.handle import Handle
from higgsx.integrations.hf.load import load_model
from higgsx.integrations.hf.pairs import Writing
from higgsx.integrations.hf.speech import hearing_of
from higgsx.integrations.hf.tasks import task_of
from higgsx.integrations.hf.tokenizers import load_tokenizer
from higgsx.kernels.precision import current
from higgsx.kernels.select import choose
from higgsx.source.checkpoint import Checkpoint
from higgsx.tasks import Batches, Encoder, Task, Wanted
from higgsx.units import format_bytes

_log = logging.getLogger("higgsx")
_ROOM = 1 << 30
"""Left free when a file is expanded: activations, the cache, other programs."""


class HFModel(Handle):
    """See `higgsx.pipeline.check.Checkable`."""

    @classmethod
    def of(cls, source: Checkpoint) -> HFModel:
        """ModelError where the checkpoint lacks weights of its model."""
        shapes = {name: info.shape for name, info in source.tensors.items()}
        model = cls(source.config, shapes, source.folder)
        if model.missing:
            more = len(model.missing) - 5
            raise ModelError(
                "weights of the model are missing",
                where=source.folder,
                got=", ".join(model.missing[:5]) + (f" and {more} more" if more > 0 else ""),
                remedy="the folder is incomplete, or its configuration belongs to another model",
            )
        return model

    @cached_property
    def task(self) -> Task:
        """By the tables of transformers; `Outputs` where they say nothing that is known here."""
        return task_of(self.cls, self.config, self.folder)

    @cached_property
    def lacks(self) -> str | None:
        """What is missing so that batches can be made, None if nothing is."""
        return material.lacks(self)

    @property
    def mute(self) -> str | None:
        """Why the model cannot be called without knowing what it does, None if it can."""
        try:
            self.call(self.skeleton())
        except ModelError as error:
            return str(error)
        return None

    def judge(self) -> Judge | None:
        """Lets models of this kind do their work; None where there is no answer to rate."""
        if self.lacks is not None:
            return None
        if self.task.kind == "speech":
            return Transcriber(hearing_of(self))
        if self.task.kind == "pairs":
            return Writer(Writing(self.config, self.tokenizer(), self.positions))
        if self.task.kind == "image":
            return Teller({int(number): str(name) for number, name in self.config.id2label.items()})
        return None

    @property
    def positions(self) -> int | None:
        """Tokens that the configuration allows at most, None if it says nothing."""
        most = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return most if isinstance(most, int) and most > 0 else None

    def batches(self, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
        """See `higgsx.pipeline.check.Checkable.batches`."""
        return material.make(self, model, wanted)

    def encoder(self) -> Encoder | None:
        tokenizer = self.tokenizer()
        if tokenizer is None:
            return None
        vocabulary = int(self.config.get_text_config().vocab_size)
        return Encoder(
            lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], vocabulary, _first(tokenizer)
        )

    def sampler(self, model: nn.Module) -> Any:
        """See `higgsx.fidelity.openings.Generate`."""

        def generate(ids: Tensor, count: int, seed: int) -> Tensor:
            with torch.random.fork_rng(devices=[]), torch.inference_mode():
                torch.manual_seed(seed)
                done: Tensor = model.generate(  # type: ignore[operator]
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    repetition_penalty=1.0,
                    max_new_tokens=count,
                    min_new_tokens=count,
                    eos_token_id=None,
                    pad_token_id=0,
                )
            return done.clone()

        return generate

    def load(self, archive: Archive, dtype: torch.dtype) -> nn.Module:
        """The compressed model, expanded."""
        return model_of(archive, dtype=dtype, device=None, packed=False)


def _first(tokenizer: Any) -> int | None:
    """The beginning-of-text token, where the model was trained with one in front: its tokenizer adds it."""
    token = tokenizer.bos_token_id
    return token if token is not None and tokenizer("a")["input_ids"][:1] == [token] else None


def model_of(archive: Archive, *, dtype: torch.dtype, device: Any, packed: bool) -> PreTrainedModel:
    weights = {name: (stored.descriptor, archive.arrays(name)) for name, stored in archive.tensors.items()}
    generation = "generation_config.json" in archive.file.assets
    return load_model(
        weights,
        archive.config,
        ties=archive.ties,
        generation=_object(archive.file.asset("generation_config.json")) if generation else None,
        dtype=dtype,
        device=device,
        packed=packed,
        # a checkpoint may hold more than its model uses; what the model lacks is an error all the same
        strict=False,
    )


def _object(content: bytes) -> Mapping[str, object]:
    try:
        data = json.loads(content)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise FormatError("not a JSON object", where="generation_config.json", code="ASSET")
    return data


def load_archive(
    archive: Archive, *, device: Any, dtype: torch.dtype, packed: bool | None
) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer (or processor, or None); see `higgsx.load`."""
    reason = "asked for"
    if packed is None:
        packed, reason = _packed_or_not(archive, device, dtype)
    state = f"{'packed' if packed else f'expanded to {dtype}'.replace('torch.', '')}: {reason}"
    _log.info(state)
    model = model_of(archive, dtype=dtype, device=device, packed=packed)
    model.hgs_state = state  # type: ignore[assignment]
    return model, load_tokenizer(archive.assets())


def _packed_or_not(archive: Archive, device: Any, dtype: torch.dtype) -> tuple[bool, str]:
    """Packed where products have a kernel of their own or nothing else fits; and why."""
    kernel, why = choose("linear", "uniform", torch.device(device or "cpu"))
    if kernel.name != "reference":
        return True, f"{kernel.name} kernels, {current()} activations"
    expanded = dtype.itemsize * sum(stored.descriptor.weights for stored in archive.tensors.values())
    free = psutil.virtual_memory().available
    fits = expanded + _ROOM <= free
    sizes = f"{format_bytes(expanded)} {'fit' if fits else 'do not fit'} the {format_bytes(free)} of free RAM"
    return not fits, f"{sizes}; no fast kernels for packed weights ({why})"
