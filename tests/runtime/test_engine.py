"""A result depends on nothing but the tokens: not on how they are cut, batched, or spread over threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from zoo import ZOO, ids_of

from higgsx.archive import Archive
from higgsx.errors import MemoryBudgetError, TextError, UsageError
from higgsx.runtime import engine as engine_module
from higgsx.runtime import memory
from higgsx.runtime.engine import Engine

Get = Callable[[str], Path]
SOME = ("llama", "gemma3", "gpt2", "neox", "phi-inner-norms")
pytestmark = pytest.mark.usefixtures("library")


@pytest.fixture(params=SOME)
def file(request: pytest.FixtureRequest, zoo_hgs: Get) -> Path:
    return zoo_hgs(request.param)


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_rows_do_not_know_of_each_other(file: Path, precision: str) -> None:
    ids = ids_of(33)
    with Archive.open(file) as archive:
        engine = Engine(archive, precision=precision, threads=1)
        one = engine.logits(ids, together=1)
        for together in (2, 3, 5, 7, 8, 9, 15, 16, 17, 33):
            np.testing.assert_array_equal(engine.logits(ids, together=together), one)
        for threads in (2, 3):
            many = Engine(archive, precision=precision, threads=threads)
            assert many.threads == threads
            np.testing.assert_array_equal(many.logits(ids), one)
            np.testing.assert_array_equal(many.logits(ids, together=1), one)


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_sequences_do_not_know_of_each_other(file: Path, precision: str) -> None:
    texts = [ids_of(count, seed) for seed, count in enumerate((3, 17, 9, 1))]
    follow = [ids_of(4, 10 + seed) for seed in range(len(texts))]
    with Archive.open(file) as archive:
        alone = Engine(archive, precision=precision)
        wanted = [alone.logits(text + more) for text, more in zip(texts, follow, strict=True)]
        engine = Engine(archive, precision=precision, sequences=len(texts))
        for number in (2, 0, 3, 1):
            last = engine.extend(number, texts[number])
            np.testing.assert_array_equal(last, wanted[number][len(texts[number]) - 1])
        for index in range(4):
            order = [3, 1, 0, 2] if index % 2 else [0, 1, 2, 3]
            found = engine.step([follow[number][index] for number in order], order)
            for row, number in zip(found, order, strict=True):
                np.testing.assert_array_equal(row, wanted[number][len(texts[number]) + index])


def test_prompts_in_chunks(zoo_hgs: Get) -> None:
    ids = ids_of(40)
    with Archive.open(zoo_hgs("gemma3")) as archive:
        whole = Engine(archive).extend(0, ids).copy()
        for chunk in (1, 7, 16, 39, 40, 64):
            np.testing.assert_array_equal(Engine(archive, chunk=chunk).extend(0, ids), whole)


def test_what_agrees_is_kept(zoo_hgs: Get) -> None:
    first, second = ids_of(20), ids_of(20)
    second[12] = (first[12] + 1) % 90 + 3
    with Archive.open(zoo_hgs("qwen2")) as archive:
        engine = Engine(archive)
        assert engine.keep(0, first) == 0
        engine.extend(0, first)
        assert engine.keep(0, second) == 12
        again = engine.extend(0, second[12:]).copy()
        np.testing.assert_array_equal(again, engine.logits(second)[-1])
        # the last token is computed again: its logits are wanted
        assert engine.keep(0, second) == 19
        np.testing.assert_array_equal(engine.extend(0, second[19:]), again)
        engine.reset()
        assert engine.keep(0, second) == 0


@pytest.mark.parametrize("cache", ["f16", "bf16"])
def test_short_numbers_in_the_cache(zoo_hgs: Get, cache: str) -> None:
    with Archive.open(zoo_hgs("llama")) as archive:
        exact = Engine(archive, precision="float", cache="f32").logits(ids_of())
        near = Engine(archive, precision="float", cache=cache).logits(ids_of())
    error = np.abs(near - exact).max() / np.abs(exact).max()
    assert 0 < error < {"f16": 2e-3, "bf16": 2e-2}[cache]


def test_context(zoo_hgs: Get) -> None:
    with Archive.open(zoo_hgs("llama")) as archive:
        engine = Engine(archive, context=10)
        with pytest.raises(TextError, match="at most 10"):
            engine.extend(0, ids_of(11))
        engine.extend(0, ids_of(10))
        with pytest.raises(TextError, match="too long"):
            engine.step([5])
        with pytest.raises(UsageError, match="context"):
            Engine(archive, context=65)
        assert Engine(archive).context == 64


def test_tokens_that_are_none(zoo_hgs: Get) -> None:
    with Archive.open(zoo_hgs("llama")) as archive:
        engine = Engine(archive)
        for ids in ([], [96], [3, -1], [3, 2**40]):
            with pytest.raises(TextError):
                engine.extend(0, ids)
        with pytest.raises(UsageError):
            engine.extend(1, [3])
        with pytest.raises(UsageError):
            engine.step([3, 4], [0, 0])
        assert engine.tokens == [[]]
        engine.extend(0, [3])


@pytest.mark.parametrize(
    "options",
    [{"sequences": 0}, {"cache": "f8"}, {"precision": "int3"}, {"threads": 0}, {"chunk": 0}, {"context": 0}],
    ids=str,
)
def test_impossible_options(zoo_hgs: Get, options: dict) -> None:
    with Archive.open(zoo_hgs("llama")) as archive, pytest.raises(UsageError):
        Engine(archive, **options)


def test_memory_is_added_up_and_refused(zoo_hgs: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive.open(zoo_hgs("llama")) as archive:
        small, large = Engine(archive, context=16), Engine(archive, context=64, sequences=5)
        settings = ZOO["llama"]
        one = settings["num_hidden_layers"] * 2 * settings["num_key_value_heads"] * 16 * 2
        assert small.memory.cache == 16 * one
        assert large.memory.cache == 5 * 64 * one
        assert small.memory.weights == sum(stored.nbytes for stored in archive.tensors.values())
        assert "cache" in str(small.memory)
        monkeypatch.setattr(memory, "free_memory", lambda: small.memory.total)
        Engine(archive, context=16)
        with pytest.raises(MemoryBudgetError, match="--context"):
            Engine(archive, context=64, sequences=10**6)


def test_nothing_is_made_before_it_fits(zoo_hgs: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of positions too are as long as the context."""
    with Archive.open(zoo_hgs("llama")) as archive:
        monkeypatch.setattr(engine_module, "Program", None)
        monkeypatch.setattr(memory, "free_memory", lambda: 10_000)
        with pytest.raises(MemoryBudgetError):
            Engine(archive)


def test_free_memory_is_told() -> None:
    assert memory.free_memory() > 1 << 20
