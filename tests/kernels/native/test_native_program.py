"""A whole small decoder as one program: the same logits for any company, tier and number of threads, and for
any bytes that lie in its buffers before; damaged programs are refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import pytest
from guarded import Fenced, in_child
from machine import Place, as_is
from programs import Cache, run, step

from higgsx.kernels import structs
from higgsx.kernels.structs import Step
from numerics import FLOAT, INT8, INT16, same
from payloads import FORMATS, random_panels

HEADS, KV_HEADS, HEAD_DIM, VOCABULARY, CONTEXT = 4, 2, 20, 45, 30
HIDDEN, KEYS, INNER = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, 72
RESIDUAL, NORMED, QKV, MIXED, GATE, UP, LOGITS, PICKED = range(8)
STRIDES = (HIDDEN, HIDDEN + 1, HIDDEN + 2 * KEYS, HIDDEN, INNER, INNER + 3, VOCABULARY, HIDDEN)


class Model:
    """Random weights of several formats and the program that runs them."""

    def __init__(self, mode: int, cache_dtype: str, place: Place = as_is) -> None:
        self.mode, self.cache_dtype, self.place = mode, cache_dtype, place
        self.rng = np.random.default_rng(80)
        self.steps: list[Step] = []
        self._build()

    def fresh(self, rows: int) -> tuple[list[np.ndarray], list[np.ndarray], Cache]:
        buffers = [self.place(machine.poisoned((rows, stride), np.float32)) for stride in STRIDES]
        size = machine.native.load().hgx_prepared_bytes(HIDDEN, rows, self.mode)
        slots = [self.place(machine.poisoned(size, np.uint8)) for _ in range(2)]
        cache = Cache(2, 2, KV_HEADS, CONTEXT, HEAD_DIM, self.cache_dtype, self.place)
        return buffers, slots, cache

    def logits(
        self, blocks: list[list[tuple[int, int, int]]], rows: int, pick: list[list[int]] | None = None
    ) -> np.ndarray:
        """Blocks of (id, sequence, position), one call after another; logits of what is picked."""
        buffers, slots, cache = self.fresh(rows)
        found = []
        for number, block in enumerate(blocks):
            ids, sequence, position = zip(*block, strict=True)
            wanted = list(range(len(block))) if pick is None else pick[number]
            machine.ok(
                run(
                    self.steps, buffers, len(block), ids=ids, sequence=sequence, position=position,
                    pick=wanted, cache=cache, prepared=slots, place=self.place,
                )
            )  # fmt: skip
            found.append(buffers[LOGITS][: len(wanted)].copy())
        return np.concatenate(found)

    def _weight(self, outputs: int, inputs: int) -> structs.Matrix:
        code, block, scale, zero = FORMATS[int(self.rng.integers(len(FORMATS)))]
        w = random_panels(self.rng, outputs, inputs, code, block, scale, zero, exponent=-4)
        w = type(w)(
            **{
                **w.__dict__,
                "width": 8,
                "multiplier": np.where(np.arange(inputs) % 3 > 0, 1, -1).astype(np.float32),
            }
        )
        return machine.matrix(w, self.place)

    def _add(self, op: int, **fields: Any) -> None:
        self.steps.append(step(op, **fields))

    def _linear(
        self, source: int, slot: int, targets: list[tuple[int, int, structs.Matrix]], flags: int = 0
    ) -> None:
        self._add(structs.PREPARE, in_=source, slot=slot, kind=self.mode, matrix=targets[0][2])
        for out, column, m in targets:
            bias = self.place(self.rng.standard_normal(m.outputs).astype(np.float32))
            self._add(
                structs.LINEAR, slot=slot, kind=self.mode, in2=self.mode, matrix=m, out=out,
                out_column=column, bias=bias, flags=flags,
            )  # fmt: skip

    def _norm(self, source: int, out: int, kind: int) -> None:
        gain = self.place(self.rng.uniform(0.5, 1.5, HIDDEN).astype(np.float32))
        self._add(structs.NORM, kind=kind, in_=source, out=out, width=HIDDEN, weight=gain, eps=1e-5)

    def _build(self) -> None:
        shape = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
        angles = self.rng.uniform(-3, 3, (CONTEXT, HEAD_DIM // 2))
        cos, sin = (self.place(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
        self._add(structs.EMBED, out=RESIDUAL, matrix=self._weight(VOCABULARY, HIDDEN), scale=1.5)
        self._add(
            structs.EMBED, out=RESIDUAL, matrix=self._weight(CONTEXT + 2, HIDDEN), scale=1.0, flags=1, kind=2
        )
        for layer in range(2):
            self._norm(RESIDUAL, NORMED, layer)
            q, k, v = self._weight(HIDDEN, HIDDEN), self._weight(KEYS, HIDDEN), self._weight(KEYS, HIDDEN)
            self._linear(NORMED, 0, [(QKV, 0, q), (QKV, HIDDEN, k), (QKV, HIDDEN + KEYS, v)])
            for heads, column in ((HEADS, 0), (KV_HEADS, HIDDEN)):
                self._add(
                    structs.ROPE, kind=layer, in_=QKV, out=QKV, in_column=column, out_column=column,
                    heads=heads, head_dim=HEAD_DIM, rotary=HEAD_DIM, weight=cos, bias=sin, positions=CONTEXT,
                )  # fmt: skip
            self._add(
                structs.CACHE,
                in_=QKV,
                in_column=HIDDEN,
                in2=QKV,
                in2_column=HIDDEN + KEYS,
                layer=layer,
                **shape,
            )
            self._add(
                structs.ATTEND,
                in_=QKV,
                out=MIXED,
                layer=layer,
                scale=0.2,
                window=7 * layer,
                cap=9.0 * layer,
                **shape,
            )
            self._linear(MIXED, 1, [(RESIDUAL, 0, self._weight(HIDDEN, HIDDEN))], structs.ADD)
            self._norm(RESIDUAL, NORMED, layer)
            self._linear(
                NORMED, 0, [(GATE, 0, self._weight(INNER, HIDDEN)), (UP, 0, self._weight(INNER, HIDDEN))]
            )
            self._add(structs.ACT, kind=structs.SILU, in_=GATE, in2=UP, out=GATE, width=INNER, flags=1)
            self._linear(GATE, 1, [(PICKED, 0, self._weight(HIDDEN, INNER))])
            self._add(structs.SUM, in_=RESIDUAL, in2=PICKED, out=RESIDUAL, width=HIDDEN)
        self._add(structs.PICK, in_=RESIDUAL, out=PICKED, width=HIDDEN)
        self._norm(PICKED, NORMED, 0)
        self._linear(NORMED, 0, [(LOGITS, 0, self._weight(VOCABULARY, HIDDEN))])
        self._add(structs.CAP, in_=LOGITS, out=LOGITS, width=VOCABULARY, cap=30.0)


def _text(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Two sequences, one after another."""
    lengths = (17, 9)
    return [(int(rng.integers(VOCABULARY)), s, p) for s in range(2) for p in range(lengths[s])]


@pytest.mark.parametrize("mode", [INT8, INT16, FLOAT])
def test_logits_do_not_depend_on_company_tier_or_threads(mode: int) -> None:
    for cache_dtype in ("f32", "f16", "bf16"):
        model, text = Model(mode, cache_dtype), _text(np.random.default_rng(81))
        with machine.using("scalar", 1):
            alone = model.logits([[token] for token in text], 1)
        assert np.isfinite(alone).all() and alone.std() > 0.1
        for tier in machine.tiers():
            for threads in (1, 2, 3):
                with machine.using(tier, threads):
                    for rows in (len(text), 64):
                        assert same(model.logits([text], rows), alone), (tier, threads, cache_dtype, rows)
        # a batch: both sequences step by step together, then what is left of the longer one
        first, second = text[:17], text[17:]
        blocks = [[a, b] for a, b in zip(first, second, strict=False)] + [[token] for token in first[9:]]
        order = [index for step in range(9) for index in (step, 17 + step)] + list(range(9, 17))
        assert same(model.logits(blocks, 4), alone[order])
        # pieces of every size up to 16, and only some rows wanted
        for size in (2, 3, 5, 8, 16):
            pieces = [first[at : at + size] for at in range(0, 17, size)]
            last = [[len(piece) - 1, 0] for piece in pieces]
            ends = [
                index
                for at, piece in zip(range(0, 17, size), pieces, strict=True)
                for index in (at + len(piece) - 1, at)
            ]
            assert same(model.logits(pieces, 16, last), alone[ends]), size


@pytest.mark.parametrize("at", ["end", "start"])
def test_programs_stay_within_their_arrays(tier: str, at: str) -> None:
    def body(say: Callable[[str], None]) -> None:
        text = _text(np.random.default_rng(82))
        for mode, cache_dtype in ((INT8, "f16"), (INT16, "bf16"), (FLOAT, "f32")):
            plain = Model(mode, cache_dtype).logits([text], len(text))
            fence = Fenced(at)
            model = Model(mode, cache_dtype, fence.place)
            for threads in (1, 3):
                say(f"mode {mode}, cache {cache_dtype}, {threads} threads")
                with machine.using(threads=threads):
                    assert same(model.logits([text], len(text)), plain)
                    assert same(model.logits([[token] for token in text], 1), plain)

    in_child(body)


TOP = (1 << 31) - 1
DAMAGE: list[tuple[int, str, Any]] = [
    (op, name, value)
    for op, fields in {
        structs.EMBED: ("out", "out_column", "matrix"),
        structs.NORM: ("in_", "out", "in_column", "out_column", "width", "groups", "kind"),
        structs.PREPARE: ("in_", "in_column", "slot", "matrix", "kind"),
        structs.LINEAR: ("out", "out_column", "slot", "matrix", "kind", "in2"),
        structs.ROPE: ("in_", "in_column", "heads", "head_dim", "rotary", "kind", "weight", "bias",
                       "positions"),
        structs.CACHE: ("in_", "in2", "in_column", "in2_column", "layer", "kv_heads", "head_dim"),
        structs.ATTEND: ("in_", "out", "in_column", "out_column", "layer", "heads", "kv_heads", "head_dim",
                         "window"),
        structs.ACT: ("in_", "in2", "out", "in_column", "in2_column", "out_column", "width", "kind"),
        structs.SUM: ("in_", "in2", "out", "in_column", "out_column", "width"),
        structs.PICK: ("in_", "out", "in_column", "out_column", "width"),
        structs.CAP: ("in_", "width", "in_column"),
    }.items()
    for name in fields
    for value in ((None,) if name in ("matrix", "weight", "bias") else (-1, TOP))
    if (name, value) not in (("positions", TOP), ("window", TOP))
]  # fmt: skip


@pytest.mark.parametrize("op", sorted({op for op, _, _ in DAMAGE}))
def test_a_damaged_program_is_refused_before_anything_is_written(op: int) -> None:
    model = Model(INT8, "f16")
    buffers, slots, cache = model.fresh(4)
    text = [(1, 0, 0), (2, 0, 1)]
    ids, sequence, position = zip(*text, strict=True)
    good = {
        "ids": ids,
        "sequence": sequence,
        "position": position,
        "pick": [1],
        "cache": cache,
        "prepared": slots,
    }
    index = next(number for number, made in enumerate(model.steps) if made.op == op)

    def untouched() -> bool:
        arrays = [*buffers, *slots, *cache.keys, *cache.values]
        return all((array.view(np.uint8) == 0xFF).all() for array in arrays)

    for _, name, value in (entry for entry in DAMAGE if entry[0] == op):
        steps = list(model.steps)
        spoiled = Step.from_buffer_copy(bytes(steps[index]))
        setattr(spoiled, name, value)
        steps[index] = spoiled
        status = run(steps, buffers, 2, **good)
        assert status != structs.OK, (op, name, value)
        assert untouched(), (op, name, value)


def test_a_bad_state_or_bad_tokens_are_refused() -> None:
    model = Model(INT8, "f16")
    buffers, slots, cache = model.fresh(4)
    good: dict[str, Any] = {
        "ids": [1, 2], "sequence": [0, 0], "position": [0, 1], "pick": [1], "cache": cache, "prepared": slots,
    }  # fmt: skip
    bad_tokens: list[dict[str, Any]] = [
        {"ids": [1, VOCABULARY]}, {"ids": [-1, 1]}, {"sequence": [0, 2]}, {"sequence": [-1, 0]},
        {"position": [0, CONTEXT]}, {"position": [-1, 0]}, {"pick": [2]}, {"pick": [-1]}, {"pick": [0] * 5},
        {"prepared": slots[:1]},
    ]  # fmt: skip
    bad_states: list[dict[str, Any]] = [
        {"rows": 1}, {"rows": 0}, {"rows": -1}, {"buffers": 3}, {"buffers": 0}, {"buffers": -1}, {"slots": 1},
        {"slots": 0}, {"layers": 1}, {"layers": 0}, {"layers": -1}, {"cache_dtype": 3}, {"cache_dtype": -1},
        {"buffer": None}, {"stride": None}, {"prepared": None}, {"keys": None}, {"values": None},
        {"cache_bytes": None}, {"sequences": 0}, {"sequences": -1}, {"sequences": 1 << 60}, {"context": 0},
        {"context": -1}, {"context": 1 << 60}, {"context": 33}, {"cache_dtype": 0}, {"sequences": 3},
    ]  # fmt: skip
    arrays = [*buffers, *slots, *cache.keys, *cache.values]
    for change in [*bad_tokens, *({"change": change} for change in bad_states)]:
        status = run(model.steps, buffers, 2, **{**good, **change})
        assert status != structs.OK, change
        assert all((array.view(np.uint8) == 0xFF).all() for array in arrays), change
    for tokens in (-1, 5, 1 << 40):
        assert machine.native.load() and run(model.steps, buffers, tokens, **good) != structs.OK
    assert run([step(0)], buffers, 2, **good) != structs.OK
    assert run([step(12)], buffers, 2, **good) != structs.OK
    machine.ok(run(model.steps, buffers, 2, **good))
