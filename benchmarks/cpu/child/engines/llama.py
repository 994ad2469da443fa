"""llama.cpp through llama-cpp-python's low-level functions."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp as api
import numpy as np


@api.llama_log_callback
def _silent(level: int, text: bytes, data: object) -> None:
    pass


class Engine:
    def __init__(self, path: str, threads: int, options: dict[str, Any]) -> None:
        api.llama_log_set(_silent, ctypes.c_void_p(0))
        api.llama_backend_init()
        self.threads = threads
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self.model:
            raise RuntimeError("llama.cpp does not load this file")
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.context = None

    def open(self, batch: int, length: int) -> None:
        """Room for `batch` sequences of `length` tokens; forgets what was there."""
        if self.context:
            api.llama_free(self.context)
        wanted = api.llama_context_default_params()
        wanted.n_ctx, wanted.n_seq_max = batch * length, batch
        wanted.n_batch = wanted.n_ubatch = 512
        wanted.n_threads = wanted.n_threads_batch = self.threads
        self.context = api.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context for this file")
        self.batch = api.llama_batch_init(512, 0, 1)
        self.past = 0

    def _run(self, tokens: list[tuple[int, int, int]], everywhere: bool, last: set[int]) -> None:
        """Tokens as (id, position, sequence)."""
        self.batch.n_tokens = len(tokens)
        for at, (token, position, sequence) in enumerate(tokens):
            self.batch.token[at], self.batch.pos[at] = token, position
            self.batch.n_seq_id[at], self.batch.seq_id[at][0] = 1, sequence
            self.batch.logits[at] = everywhere or at in last
        status = api.llama_decode(self.context, self.batch)
        if status:
            raise RuntimeError(f"llama_decode gave {status}")

    def _logits(self, at: int) -> np.ndarray:
        return np.ctypeslib.as_array(api.llama_get_logits_ith(self.context, at), (self.vocabulary,))

    def start(self, prompts: list[list[int]]) -> list[int]:
        """Forgets everything, reads the prompts (of one length); the likeliest next tokens."""
        api.llama_memory_clear(api.llama_get_memory(self.context), False)
        tokens = [(token, at, number) for number, ids in enumerate(prompts) for at, token in enumerate(ids)]
        length = len(prompts[0])
        ends = {length * (number + 1) - 1 for number in range(len(prompts))}
        self._run(tokens, False, ends)
        self.past = length
        return [int(self._logits(at).argmax()) for at in sorted(ends)]

    def step(self, tokens: list[int]) -> list[int]:
        """One more token for every sequence."""
        rows = [(token, self.past, number) for number, token in enumerate(tokens)]
        self._run(rows, True, set())
        self.past += 1
        return [int(self._logits(at).argmax()) for at in range(len(tokens))]

    def logits(self, ids: list[int]) -> np.ndarray:
        """[tokens, vocabulary] of one sequence read at once."""
        api.llama_memory_clear(api.llama_get_memory(self.context), False)
        self._run([(token, at, 0) for at, token in enumerate(ids)], True, set())
        return np.stack([self._logits(at) for at in range(len(ids))])
