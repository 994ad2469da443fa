"""Tokens in, logits out: the program of a file, its caches and its scratch, on the native kernels.

A result depends neither on how many tokens are computed together nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable, Sequence

import numpy as np

from higgsx.archive import Archive
from higgsx.errors import ModelError, TextError, UsageError
from higgsx.kernels import native, precision, structs
from higgsx.kernels.native import State
from higgsx.runtime.memory import Memory
from higgsx.runtime.program import LOGITS, Program
from higgsx.runtime.resolve import design_of
from higgsx.runtime.tensors import Tensors
from higgsx.units import round_up

DEFAULT_CONTEXT = 4096
CHUNK = 256
"""Tokens of a prompt that are computed together: enough to use each weight that was read many times."""
CACHES: dict[str, tuple[int, type[np.generic]]] = {
    "f16": (structs.F16, np.uint16),
    "bf16": (structs.BF16, np.uint16),
    "f32": (structs.F32, np.float32),
}
_LANES = 16
"""Positions of keys stand beside each other in groups of so many; the library rounds the context up."""


class Engine:
    """A model with room for `sequences` texts of up to `context` tokens each. One caller at a time."""

    def __init__(
        self,
        archive: Archive,
        *,
        context: int | None = None,
        sequences: int = 1,
        precision: str | None = None,
        cache: str = "f16",
        threads: int | None = None,
        chunk: int = CHUNK,
    ) -> None:
        """context    tokens of each sequence; None: the model's, at most 4096
        precision  "int8", "fast" or "float", see `higgsx.kernels.precision`; None: as HIGGSX_PRECISION says
        cache      "f16", "bf16" or "f32": keys and values
        threads    of this process from now on; None: as they are
        chunk      tokens of a prompt that are computed together

        ModelError (code FAMILY) where the lean decoder does not know the model, UsageError for impossible
        arguments, MemoryBudgetError before anything is allocated where it does not fit.
        """
        self._native = native.load()
        self.design = design = design_of(archive.config)
        self.precision = _precision(precision)
        self.context = _context(context, design.positions)
        self.sequences, self.chunk = _at_least_one(sequences, "sequences"), _at_least_one(chunk, "chunk")
        if cache not in CACHES:
            raise UsageError("no such cache", got=cache, expected=", ".join(CACHES))
        self.cache = cache
        self._rows = min(max(self.chunk, self.sequences), max(self.context, self.sequences))
        if threads is not None:
            self._native.check(self._native.hgx_set_threads(_at_least_one(threads, "threads")), "threads")
        self._needs(archive).require()
        tensors = Tensors(archive, _base(design.embedding), design.embedding + ".weight")
        self._program = Program(design, tensors, self.context, self.precision)
        self.memory = self._needs(archive, self._program)
        self.memory.require()
        self.tokens: list[list[int]] = [[] for _ in range(self.sequences)]
        self._allocate()

    @property
    def vocabulary(self) -> int:
        return self.design.vocabulary

    @property
    def tier(self) -> str:
        """The instruction set in use."""
        return self._native.tier

    @property
    def threads(self) -> int:
        return self._native.threads

    def _cache_shape(self) -> tuple[int, ...]:
        design = self.design
        return (self.sequences, design.kv_heads, round_up(self.context, _LANES), design.head_dim)

    def _needs(self, archive: Archive, program: Program | None = None) -> Memory:
        """Without a program: what can be told before one is made."""
        dtype = np.dtype(CACHES[self.cache][1])
        one = int(np.prod(self._cache_shape(), dtype=object)) * dtype.itemsize
        ropes = {layer.attention.rope for layer in self.design.layers} - {None}
        scratch = sum(8 * self.context * len(rope.frequencies) for rope in ropes if rope is not None)
        scratch += 4 * self.sequences * self.vocabulary
        if program is not None:
            # logits are needed of a few tokens alone; the memory behind the others is never touched
            widths = [width for index, width in enumerate(program.widths) if index != LOGITS]
            scratch += 4 * self._rows * sum(widths) + sum(self._prepared_bytes())
        weights = sum(stored.nbytes for stored in archive.tensors.values())
        return Memory(weights, 2 * one * len(self.design.layers), scratch)

    def _prepared_bytes(self) -> list[int]:
        sizes = [
            int(self._native.hgx_prepared_bytes(inputs, self._rows, modes))
            for inputs, modes in self._program.slots
        ]
        if any(size < 0 for size in sizes):
            raise ModelError("cannot be prepared", where="config.json", code="FAMILY")
        return sizes

    def _allocate(self) -> None:
        dtype_of, dtype = CACHES[self.cache]
        rows, shape = self._rows, self._cache_shape()
        self._buffers = [np.empty((rows, width), np.float32) for width in self._program.widths]
        self._prepared = [_aligned(size) for size in self._prepared_bytes()]
        layers = range(len(self.design.layers))
        self._caches = [[np.zeros(shape, dtype) for _ in layers] for _ in ("keys", "values")]
        self._lists = [
            _addresses(self._buffers),
            np.array([buffer.shape[1] for buffer in self._buffers], np.int64),
            _addresses(self._prepared),
            np.array([array.nbytes for array in self._prepared], np.int64),
            *(_addresses(cache) for cache in self._caches),
            np.array([array.nbytes for array in self._caches[0]], np.int64),
        ]
        self._state = State(
            rows, len(self._buffers), len(self._prepared), len(layers), dtype_of,
            *(array.ctypes.data for array in self._lists), self.sequences, self.context,
        )  # fmt: skip
        # ids, sequences, positions, picks
        self._inputs = np.zeros((4, rows), np.int32)
        self._at = [row.ctypes.data for row in self._inputs]
        self._steps_at = ctypes.addressof(self._program.steps)
        self._state_at = ctypes.addressof(self._state)

    # Texts ---------------------------------------------------------------------------------------------

    def reset(self, sequence: int | None = None) -> None:
        """Forget a sequence; None: all."""
        for index in range(self.sequences) if sequence is None else [sequence]:
            self.tokens[index].clear()

    def keep(self, sequence: int, ids: Sequence[int]) -> int:
        """Forget what does not agree with `ids`; returns how many tokens stay, fewer than there are ids."""
        held = self.tokens[sequence]
        most = min(len(held), len(ids) - 1)
        same = next((index for index in range(most) if held[index] != ids[index]), most)
        del held[max(same, 0) :]
        return len(held)

    def extend(self, sequence: int, ids: Sequence[int]) -> np.ndarray:
        """Append tokens to a sequence; the logits after the last one, float32 `[vocabulary]`, valid until the
        next call. TextError where they do not fit or are no tokens."""
        self._check(sequence, ids)
        for begin in range(0, len(ids), self._rows):
            part = ids[begin : begin + self._rows]
            last = begin + len(part) == len(ids)
            self._fill(part, [sequence] * len(part), len(self.tokens[sequence]))
            self._run(len(part), [len(part) - 1] if last else None)
            self.tokens[sequence] += part
        return self._buffers[LOGITS][0]

    def step(self, ids: Sequence[int], sequences: Sequence[int] | None = None) -> np.ndarray:
        """One token more for each of some sequences (None: the first ones): logits float32
        `[len(ids), vocabulary]`, valid until the next call."""
        numbers = range(len(ids)) if sequences is None else sequences
        if len(numbers) != len(ids) or len(set(numbers)) != len(ids):
            raise UsageError("one token for each of some sequences", got=f"{len(ids)} for {list(numbers)}")
        for number, token in zip(numbers, ids, strict=True):
            self._check(number, [token])
        count = len(ids)
        self._inputs[0, :count] = ids
        self._inputs[1, :count] = numbers
        self._inputs[2, :count] = [len(self.tokens[number]) for number in numbers]
        self._run(count, range(count))
        for number, token in zip(numbers, ids, strict=True):
            self.tokens[number].append(token)
        return self._buffers[LOGITS][:count]

    def logits(self, ids: Sequence[int], together: int | None = None) -> np.ndarray:
        """Logits after every token of a text, float32 `[len(ids), vocabulary]`, a copy; the first sequence is
        used for it. together: tokens computed at once."""
        ids = list(ids)
        self.reset(0)
        self._check(0, ids)
        at_once = min(self._rows, together or self._rows)
        found = np.empty((len(ids), self.vocabulary), np.float32)
        for begin in range(0, len(ids), at_once):
            part = ids[begin : begin + at_once]
            self._fill(part, [0] * len(part), begin)
            self._run(len(part), range(len(part)))
            found[begin : begin + len(part)] = self._buffers[LOGITS][: len(part)]
            self.tokens[0] += part
        return found

    def _check(self, sequence: int, ids: Sequence[int]) -> None:
        if not 0 <= sequence < self.sequences:
            raise UsageError("there is no such sequence", got=sequence, expected=f"below {self.sequences}")
        if not ids:
            raise TextError("the prompt has no tokens", remedy="write something")
        worst = max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < self.vocabulary:
            raise TextError(
                "token is not in the model's vocabulary", got=worst, expected=f"below {self.vocabulary}"
            )
        there = len(self.tokens[sequence]) + len(ids)
        if there > self.context:
            more = there <= self.design.positions
            raise TextError(
                "the text is too long", got=f"{there} tokens", expected=f"at most {self.context}",
                remedy="a larger --context has room for it" if more else "that is all the model was made for",
            )  # fmt: skip

    def _fill(self, ids: Sequence[int], sequences: Sequence[int], first: int) -> None:
        count = len(ids)
        self._inputs[0, :count] = ids
        self._inputs[1, :count] = sequences
        self._inputs[2, :count] = np.arange(first, first + count)

    def _run(self, tokens: int, picks: Iterable[int] | None) -> None:
        """picks: whose logits are wanted; None: of none, the caches alone."""
        steps, picked = self._program.needed, 0
        if picks is not None:
            wanted = list(picks)
            steps, picked = len(self._program.steps), len(wanted)
            self._inputs[3, :picked] = wanted
        status = self._native.hgx_run(
            self._steps_at, steps, self._state_at, tokens, *self._at[:3], self._at[3], picked
        )
        self._native.check(status, "decoder")


def _precision(name: str | None) -> str:
    return precision.current() if name is None else precision.named(name)


def _context(wanted: int | None, positions: int) -> int:
    if wanted is None:
        return min(positions, DEFAULT_CONTEXT)
    if not 1 <= wanted <= positions:
        raise UsageError(
            "context out of range", got=wanted, expected=f"1 to {positions}, the model's positions"
        )
    return wanted


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise UsageError("out of range", where=name, got=value, expected="1 or more")
    return value


def _base(embedding: str) -> str:
    return embedding.rpartition(".")[0] + "."


def _addresses(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.uint64)


def _aligned(nbytes: int) -> np.ndarray:
    """Zeros that begin with a page."""
    return np.frombuffer(mmap.mmap(-1, max(nbytes, 1)), np.uint8)[:nbytes]
