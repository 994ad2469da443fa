"""A configuration from anyone, read strictly: what is not understood is refused, never ignored.

Every refusal is a ModelError with code FAMILY: the model then runs through transformers, for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from higgsx.errors import ModelError

MOST = 1 << 24
"""Of any size; the shapes of the stored tensors bound them further."""

HARMLESS = frozenset((
    "model_type", "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path",
    "name_or_path", "use_cache", "initializer_range", "init_std", "initializer_factor",
    "initializer_cutoff_factor", "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id",
    "sep_token_id", "decoder_start_token_id", "prefix", "attention_dropout", "hidden_dropout",
    "dropout", "activation_dropout", "classifier_dropout", "resid_pdrop", "embd_pdrop",
    "attn_pdrop", "embed_dropout", "layerdrop", "hidden_dropout_prob",
    "attention_probs_dropout_prob", "id2label", "label2id", "num_labels", "problem_type",
    "finetuning_task", "task_specific_params", "return_dict", "return_dict_in_generate",
    "output_hidden_states", "output_attentions", "output_scores", "torchscript",
    "gradient_checkpointing", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset", "cache_implementation", "tokenizer_class", "is_decoder",
    "use_bfloat16", "chunk_size_feed_forward", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "pruned_heads", "tf_legacy_loss",
    "unsloth_version", "unsloth_fixed",
))  # fmt: skip
"""Keys that change nothing about the arithmetic of a decoder that runs."""


def unknown(what: str, where: str | None = None, got: object = None, expected: object = None) -> ModelError:
    """Why the lean decoder does not take a model."""
    place = "config.json" if where is None else f"config.json: {where}"
    shown = None if got is None else repr(got)[:80]
    return ModelError(what, where=place, got=shown, expected=expected, code="FAMILY")


class Fields:
    """The keys of a configuration; each is read by one of the methods, and `finish` refuses the others.

    A key whose value is null counts as absent. `missing` is the value of an absent one; without it an absent
    one is refused.
    """

    def __init__(self, config: Mapping[str, object], where: str = "") -> None:
        self._config = {str(key): value for key, value in config.items() if value is not None}
        self._read: set[str] = set()
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._config

    def raw(self, key: str) -> object:
        """The value as it stands, None where there is none."""
        self._read.add(key)
        return self._config.get(key)

    def count(self, key: str, missing: int | None = None, least: int = 1, most: int = MOST) -> int:
        value = self.raw(key)
        if value is None:
            value = missing
        if type(value) is not int or not least <= value <= most:
            raise self._refuse(key, value, f"a whole number from {least} to {most}")
        return value

    def number(self, key: str, missing: float | None = None, least: float = 0.0) -> float:
        """A finite number above `least`."""
        value = self.raw(key)
        if value is None:
            value = missing
        if type(value) not in (int, float) or not math.isfinite(value) or not least < value < 1e12:  # type: ignore[arg-type, operator]
            raise self._refuse(key, value, f"a number above {least:g}")
        return float(value)  # type: ignore[arg-type]

    def flag(self, key: str, missing: bool | None = None) -> bool:
        value = self.raw(key)
        if value is None:
            value = missing
        if type(value) is not bool:
            raise self._refuse(key, value, "true or false")
        return value

    def word(self, key: str, choices: Iterable[str], missing: str | None = None) -> str:
        value = self.raw(key)
        if value is None:
            value = missing
        if not isinstance(value, str) or value not in choices:
            raise self._refuse(key, value, f"one of {', '.join(sorted(choices))}")
        return value

    def part(self, key: str) -> Fields | None:
        """A nested object, None where there is none."""
        value = self.raw(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self._refuse(key, value, "an object")
        return Fields(value, f"{self._where}{key}.")

    def must_be(self, key: str, *allowed: object) -> None:
        """Refuse another value; absent is allowed."""
        value = self.raw(key)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise self._refuse(key, value, " or ".join(map(repr, allowed)))

    def finish(self, harmless: frozenset[str] = frozenset()) -> None:
        rest = sorted(set(self._config) - self._read - harmless)
        if rest:
            raise self._refuse(rest[0], self._config[rest[0]], None, "says something that is not understood")

    def _refuse(
        self, key: str, value: object, expected: str | None, what: str = "has no value that is understood"
    ) -> ModelError:
        return unknown(what, f"{self._where}{key}", got=value, expected=expected)
