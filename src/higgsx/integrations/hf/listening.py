"""Write down what is said in a sound of any length, with a loaded model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from higgsx.errors import ModelError, UsageError
from higgsx.fidelity.clips import read_wav
from higgsx.integrations.hf.answers import Transcriber
from higgsx.integrations.hf.speech import Hearing, hears
from higgsx.integrations.hf.tasks import task_of

_LAST = 1 / 3
"""A long sound is cut at the quietest moment in the last third of what the model hears at once."""
_MOMENT = 0.1
"""Seconds over which loudness is taken."""


class Listener:
    """rate  samples per second that the model hears"""

    def __init__(self, model: Any, hearing: Hearing, language: int | None) -> None:
        self._model, self._hearing, self._language = model, hearing, language
        self._transcriber = Transcriber(hearing)
        self.rate = hearing.rate

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """Samples of a wav file of any length. TextError where it cannot be used."""
        return read_wav(path, self.rate)

    def pieces(self, samples: Tensor) -> Iterator[str]:
        """What is said, one piece after the other. The language is told by the first where nobody said it."""
        language = self._language
        for part in cut_at_pauses(samples, int(self._hearing.longest * self.rate), self.rate):
            features = self._hearing.features(part)
            if language is None:
                language = self._hearing.language_of(self._model, features)
            yield self._transcriber.transcribe(self._model, features, language)


def cut_at_pauses(samples: Tensor, longest: int, rate: int) -> Iterator[Tensor]:
    """Parts of at most `longest` samples that make up the whole."""
    while len(samples) > longest:
        begin = int(longest * (1 - _LAST))
        moment = max(1, int(_MOMENT * rate))
        loud = samples[begin:longest].square()[None, None]
        quiet = torch.nn.functional.avg_pool1d(loud, moment, 1).argmin()
        place = begin + int(quiet) + moment // 2
        yield samples[:place]
        samples = samples[place:]
    yield samples


def listener_of(model: Any, processor: Any, language: str | None = None) -> Listener:
    """language  code such as `en`; None: the model listens for it. UsageError where the model turns no speech
    into text, or does not know the language; ModelError without a processor."""
    if task_of(type(model), model.config, None).kind != "speech":
        raise UsageError("this model does not turn speech into text", got=type(model).__name__)
    if not hears(processor):
        raise ModelError("the file has no processor", remedy="compress a folder that holds one")
    hearing = Hearing(type(model), model.config, processor, model.generation_config.to_dict())
    known = hearing.languages
    mark = None if language is None else known.get(f"<|{language}|>")
    if language is not None and mark is None:
        words = ", ".join(sorted(name.strip("<|>") for name in known)) or "it has no choice of languages"
        raise UsageError("the model does not know this language", got=language, expected=words)
    return Listener(model, hearing, mark)
