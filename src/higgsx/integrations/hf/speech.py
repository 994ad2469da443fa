"""Clips for models that turn speech into text: of a user's, or synthesised."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from higgsx import io
from higgsx.errors import ModelError, TextError
from higgsx.fidelity.clips import find_clips, read_wav
from higgsx.fidelity.material import share_of
from higgsx.fidelity.sounds import voice
from higgsx.integrations.hf.drawing import drawn, say
from higgsx.tasks import Batches, Example, Wanted
from higgsx.tasks.example import shifted

LONGEST = 30.0
"""Seconds of a clip, where the model does not say it itself."""
MOST_CLIPS = 512
_SYNTHETIC = {"check": 12, "calibration": 32}
_SAID = 32
"""Tokens that a model is let say about a synthesised sound."""


class Hearing:
    """What turns sound into the input of a model, and text into its tokens.

    processor  of transformers: a feature extractor and a tokenizer
    settings   contents of generation_config.json
    """

    def __init__(self, cls: Any, config: Any, processor: Any, settings: Mapping[str, Any]) -> None:
        self.cls, self.config, self.settings = cls, config, settings
        self.extractor, self.tokenizer = processor.feature_extractor, processor.tokenizer
        self.rate = int(self.extractor.sampling_rate)
        self.longest = float(getattr(self.extractor, "chunk_length", None) or LONGEST)

    @cached_property
    def positions(self) -> int:
        """Tokens that the decoder takes at most."""
        most = getattr(self.config, "max_target_positions", None)
        return int(most or getattr(self.config, "max_position_embeddings", None) or 448)

    @property
    def languages(self) -> Mapping[str, int]:
        """Language mark → id; empty where the model knows one language, or does not want to be told."""
        found = self.settings.get("lang_to_id")
        return found if isinstance(found, dict) else {}

    @property
    def ends(self) -> set[int]:
        end = self.settings.get("eos_token_id", self.config.eos_token_id)
        return set(end if isinstance(end, list) else [] if end is None else [end])

    def features(self, samples: Tensor) -> dict[str, Tensor]:
        """Arguments of the encoder for one clip."""
        made = self.extractor(samples.numpy(), sampling_rate=self.rate, return_tensors="pt")
        names = inspect.signature(self.cls.forward).parameters
        return {name: value for name, value in made.items() if name in names}

    def prompt(self, language: int | None) -> list[int]:
        """What the decoder is told before the first word."""
        start = self.settings.get("decoder_start_token_id", self.config.decoder_start_token_id)
        ids = [int(start)]
        if language is not None:
            ids.append(language)
            vocabulary = self.tokenizer.get_vocab()
            ids += [vocabulary[mark] for mark in ("<|transcribe|>",) if mark in vocabulary]
        silent = self.settings.get("no_timestamps_token_id")
        return ids if silent is None else [*ids, int(silent)]

    def tokens(self, text: str, where: object) -> list[int]:
        """Ids of a transcript with its end. TextError where the model cannot say it."""
        ids = list(self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"])
        vocabulary = int(self.config.vocab_size)
        outside = next((token for token in ids if not 0 <= token < vocabulary), None)
        if outside is not None or not ids:
            raise TextError(
                "the transcript is nothing that the model can say", where=where,
                got=repr(text)[:40] if outside is None else outside, expected=f"token ids below {vocabulary}",
            )  # fmt: skip
        return [*ids, min(self.ends)] if self.ends else ids

    def language_of(self, model: Any, features: Mapping[str, Tensor]) -> int | None:
        """The likeliest of the model's languages; None where it has none to choose from."""
        marks = sorted(self.languages.values())
        if len(marks) < 2:
            return marks[0] if marks else None
        found = _FromMarks(marks)
        start = torch.tensor([self.prompt(None)[:1]])
        return int(say(model, features, start, 1, (), found)[0][-1])

    def default_language(self) -> int | None:
        marks = self.languages
        return marks.get("<|en|>", min(marks.values(), default=None))


class _FromMarks:
    def __init__(self, marks: list[int]) -> None:
        self._marks = torch.tensor(marks)

    def __call__(self, logits: Tensor) -> Tensor:
        return self._marks[logits[:, self._marks].argmax(1)]


def hears(processor: Any) -> bool:
    """Whether it is a processor for speech and text."""
    return hasattr(processor, "feature_extractor") and hasattr(processor, "tokenizer")


def hearing_of(handle: Any) -> Hearing:
    """ModelError where the folder lacks a processor."""
    processor, folder = handle.processor(), handle.folder
    if not hears(processor):
        raise ModelError("the model has no processor", where=folder)
    settings = folder / "generation_config.json"
    data = io.read_json(settings) if settings.is_file() else {}
    return Hearing(handle.cls, handle.config, processor, data if isinstance(data, dict) else {})


def speech_batches(hearing: Hearing, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    """One clip each. TextError for sounds or transcripts that cannot be used; all of them are read before
    the model is asked for anything."""
    path = wanted.path
    if path is None:
        return _from_nothing(hearing, model, wanted)
    clips = share_of(find_clips(path), wanted.part, wanted.shared, path)[:MOST_CLIPS]
    read: list[tuple[Path, Tensor, str | None, list[int]]] = []
    told = 0
    for sound, text in clips:
        samples = read_wav(sound, hearing.rate, hearing.longest)
        ids = [] if text is None else hearing.tokens(text, sound)
        room = hearing.positions - len(hearing.prompt(hearing.default_language()))
        if len(ids) > room:
            raise TextError(
                "the transcript is longer than the model can say", where=sound, got=f"{len(ids)} tokens",
                expected=f"{room} at most",
            )  # fmt: skip
        read.append((sound, samples, text, ids))
        told += len(ids) or _SAID
        if told >= wanted.most_tokens:
            break
    examples = []
    for number, (_, samples, text, ids) in enumerate(read):
        features = hearing.features(samples)
        language = hearing.language_of(model(), features) if len(hearing.languages) > 1 else None
        language = hearing.default_language() if language is None else language
        prompt = hearing.prompt(language)
        if text is None:
            sequence = _said(hearing, model(), features, prompt, hearing.positions - len(prompt), number)
        else:
            sequence = torch.tensor([*prompt, *ids])
        examples.append(_example(features, sequence, len(prompt), text))
    written = sum(text is not None for _, _, text, _ in read)
    how = "with transcripts" if written == len(read) else "what is said in them drawn from the original"
    return Batches({"clips": examples}, f"clips of the user's, {how}")


def _from_nothing(hearing: Hearing, model: Callable[[], nn.Module], wanted: Wanted) -> Batches:
    count = max(1, min(_SYNTHETIC[wanted.part], wanted.most_tokens // _SAID))
    language = hearing.default_language()
    prompt = hearing.prompt(language)
    most = min(_SAID, hearing.positions - len(prompt))
    examples = []
    for number in range(count):
        seed = wanted.seed + number
        seconds = hearing.longest * (0.3 + 0.7 * (number % 4) / 3)
        features = hearing.features(voice(seed, seconds, hearing.rate))
        sequence = _said(hearing, model(), features, prompt, most, seed)
        examples.append(_example(features, sequence, len(prompt), None))
    return Batches({"sounds": examples}, "tones and noise, what is said about them drawn from the original")


def _said(
    hearing: Hearing, model: Any, features: Mapping[str, Tensor], prompt: list[int], most: int, seed: int
) -> Tensor:
    """Prompt and what the model says, drawn. Where nothing can be drawn from it (NaN), the same token again
    and again: measuring will find what is wrong."""
    try:
        return say(model, features, torch.tensor([prompt]), most, hearing.ends, drawn(seed), least=4)[0]
    except RuntimeError:
        return torch.tensor([*prompt, *[prompt[-1]] * 4])


def _example(features: Mapping[str, Tensor], sequence: Tensor, given: int, text: str | None) -> Example:
    decoder, labels = shifted(sequence, given)
    inputs = {**features, "decoder_input_ids": decoder, "use_cache": False}
    return Example(inputs, labels, () if text is None else ((text,),))
