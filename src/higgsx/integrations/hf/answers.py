"""What models answer when they are let do their work, and the units that errors are counted in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from higgsx.fidelity.quality import Rate, plain
from higgsx.integrations.hf.drawing import say
from higgsx.integrations.hf.pairs import Writing
from higgsx.integrations.hf.speech import Hearing
from higgsx.tasks import Example
from higgsx.tasks.example import placed


def _likeliest(logits: Tensor) -> Tensor:
    return logits.argmax(1)


class Transcriber:
    """Speech to text, greedily. Rates: WER and CER of normalised text."""

    def __init__(self, hearing: Hearing) -> None:
        self._hearing = hearing
        normal = normaliser(hearing)
        self.rates = (
            Rate("WER", lambda text: normal(text).split()),
            Rate("CER", lambda text: list(normal(text))),
        )

    def answers(self, model: Any, batch: Example) -> list[str]:
        features = {
            name: value
            for name, value in batch.inputs.items()
            if "decoder" not in name and value is not False
        }
        given = batch.inputs["decoder_input_ids"][0].tolist()
        marks = set(self._hearing.languages.values())
        language = next((token for token in given[:2] if token in marks), None)
        return [self.transcribe(model, features, language)]

    def transcribe(self, model: Any, features: dict[str, Any], language: int | None) -> str:
        """What the model hears in one clip. Ids that it must never say are left out as its settings say."""
        hearing = self._hearing
        prompt = torch.tensor([hearing.prompt(language)])
        most = hearing.positions - prompt.shape[1]
        never = _ids(hearing.settings.get("suppress_tokens"))
        first = _ids(hearing.settings.get("begin_suppress_tokens"))
        choose = _Allowed(never, first)
        said = say(model, features, prompt, most, hearing.ends, choose, least=0)[0]
        return str(hearing.tokenizer.decode(said[prompt.shape[1] :], skip_special_tokens=True)).strip()

    def right(self, batch: Example) -> Sequence[Sequence[str]]:
        return batch.right


def _ids(value: object) -> list[int]:
    return [one for one in value if isinstance(one, int)] if isinstance(value, list) else []


class _Allowed:
    """The likeliest token of those that a model may say, some of them not as the first."""

    def __init__(self, never: list[int], first: list[int]) -> None:
        self._never, self._first = never, first
        self._begun = False

    def __call__(self, logits: Tensor) -> Tensor:
        logits[:, self._never] = -torch.inf
        if not self._begun:
            logits[:, self._first] = -torch.inf
        self._begun = True
        return logits.argmax(1)


def normaliser(hearing: Hearing) -> Callable[[str], str]:
    """For English the one that is usual for speech (numbers, contractions, spelling); else letters alone."""
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    languages = hearing.languages
    if languages and "<|en|>" not in languages:
        return plain
    english = EnglishTextNormalizer(getattr(hearing.tokenizer, "english_spelling_normalizer", None) or {})

    def normal(text: str) -> str:
        # it would drop other scripts' marks; text that is not English keeps them
        return str(english(text)).strip() if text.isascii() else plain(text)

    return normal


class Writer:
    """Source to target, greedily. Rates: exact answers, errors in words (parts between spaces)."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self.rates = (
            Rate("exact answers", lambda text: [" ".join(text.split())], share=True),
            Rate("word errors", str.split),
        )

    def answers(self, model: Any, batch: Example) -> list[str]:
        writing = self._writing
        source = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        prompt = torch.full((len(source["input_ids"]), 1), writing.start)
        most = max(2 * batch.inputs["decoder_input_ids"].shape[1], 16)
        if writing.positions is not None:
            most = min(most, writing.positions - 1)
        said = say(model, source, prompt, most, writing.ends, _likeliest, least=0)
        return [str(writing.tokenizer.decode(row[1:], skip_special_tokens=True)).strip() for row in said]

    def right(self, batch: Example) -> Sequence[Sequence[str]]:
        return batch.right


class Teller:
    """What is on a picture. Rate: accuracy."""

    rates = (Rate("accuracy", lambda text: [text], share=True),)

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names

    def answers(self, model: Any, batch: Example) -> list[str]:
        with torch.inference_mode():
            numbers = model(**placed(batch.inputs, model)).logits.argmax(1).tolist()
        return [self._names.get(number, str(number)) for number in numbers]

    def right(self, batch: Example) -> Sequence[Sequence[str]]:
        return batch.right
