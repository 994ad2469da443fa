"""What a model's task is run on, for every kind of task: see `higgsx.pipeline.check.Checkable.batches`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from higgsx.errors import ModelError, UsageError
from higgsx.integrations.hf import inputs
from higgsx.integrations.hf.anything import output_batches
from higgsx.integrations.hf.pairs import Writing, pair_batches
from higgsx.integrations.hf.pictures import picture_batches
from higgsx.integrations.hf.speech import hearing_of, hears, speech_batches
from higgsx.integrations.hf.tasks import hides_words
from higgsx.integrations.hf.texts import Reading, label_batches, vector_batches
from higgsx.integrations.hf.windows import language_batches
from higgsx.tasks import Batches, Wanted

if TYPE_CHECKING:
    from higgsx.integrations.hf.model import HFModel


def lacks(handle: HFModel) -> str | None:
    """What is missing so that batches can be made, None if nothing is."""
    kind = handle.task.kind
    if kind == "outputs":
        return handle.mute
    if kind == "image":
        return None
    if kind == "speech":
        return None if hears(handle.processor()) else "the model has no processor"
    return "the model has no tokenizer" if handle.tokenizer() is None else None


def make(handle: HFModel, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    """ModelError where something is lacking; TextError, UsageError for material that cannot be used."""
    if handle.lacks is not None:
        raise ModelError(handle.lacks, where=handle.folder)
    kind = handle.task.kind
    if kind == "language":
        encoder = handle.encoder()
        if encoder is None:
            raise ModelError("the model has no tokenizer", where=handle.folder)
        return language_batches(model, handle.sampler, encoder, handle.positions, wanted)
    if kind == "speech":
        return speech_batches(hearing_of(handle), model, wanted)
    if kind == "pairs":
        writing = Writing(handle.config, handle.tokenizer(), handle.positions)
        return pair_batches(writing, model, wanted)
    if kind in ("encoder", "labels"):
        vocabulary = int(handle.config.get_text_config().vocab_size)
        reading = Reading(handle.tokenizer(), handle.positions, vocabulary)
        if kind == "encoder":
            return vector_batches(reading, wanted)
        return label_batches(reading, hides_words(handle.cls, handle.config), model, wanted)
    if kind == "image":
        shape = inputs.picture(handle.config)
        names = {str(name): int(number) for name, number in (handle.config.label2id or {}).items()}
        return picture_batches(shape, handle.processor, names, model, wanted)
    if wanted.path is not None:
        raise UsageError(
            "nothing is known of what this model does, so it cannot work on a file",
            where=handle.cls.__name__, got=wanted.path,
            remedy="leave the file out: random inputs show how far its outputs move",
        )  # fmt: skip
    return output_batches(handle, wanted)
