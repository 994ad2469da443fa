"""Random programs leave the same bits, all at once and by several threads, as step after step alone.

A program is planned: steps that do not touch each other's numbers run together, wide ones are split by
columns. The reference runs every step as a program of its own on one thread of the scalar tier.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import machine
import numpy as np
import pytest
from cases import EVERYTHING
from programs import Cache, run, step

from higgsx.kernels import structs
from higgsx.kernels.structs import Step
from numerics import FLOAT, INT8, INT16, same
from payloads import random_panels

STRIDE, BUFFERS, SLOTS = 4400, 5, 2
WIDTHS = (16, 64, 200, 1024, 4096)
"""4096 columns are split between threads."""


@dataclass
class Fuzz:
    """A program that grows. What a step does is tried on `buffers`; one that is refused is left out."""

    rng: np.random.Generator
    tokens: int
    steps: list[Step] = field(default_factory=list)
    slots: dict[int, tuple[Any, int, np.ndarray]] = field(default_factory=dict)
    """What PREPARE left: inputs and width of the transform, modes, bytes."""

    def __post_init__(self) -> None:
        self.buffers = [
            self.rng.standard_normal((self.tokens, STRIDE)).astype(np.float32) for _ in range(BUFFERS)
        ]
        self.start = [buffer.copy() for buffer in self.buffers]
        self.cache = Cache(1, 2, 2, 24, 16)
        self.sequence = [0] * (self.tokens - self.tokens // 2) + [1] * (self.tokens // 2)
        self.position = [*range(self.tokens - self.tokens // 2), *range(self.tokens // 2)]
        self.ids = self.rng.integers(0, 40, self.tokens).tolist()
        self.pick: list[int] = []
        self.now = self.tokens
        self.matrices: dict[tuple[int, int], Any] = {}

    def columns(self, width: int) -> int:
        """Often the beginning, so that steps meet."""
        return int(self.rng.choice([0, 0, 0, 16, 7, STRIDE - width]))

    def buffer(self) -> int:
        return int(self.rng.integers(BUFFERS))

    def matrix(self, outputs: int, inputs: int) -> Any:
        if (outputs, inputs) not in self.matrices:
            w = random_panels(self.rng, outputs, inputs, 2, 0, "row", width=16)
            self.matrices[outputs, inputs] = machine.matrix(w)
        return self.matrices[outputs, inputs]

    def grow(self) -> None:
        width = int(self.rng.choice(WIDTHS))
        column, out_column = self.columns(width), self.columns(width)
        place = {
            "in_": self.buffer(),
            "out": self.buffer(),
            "in_column": column,
            "out_column": out_column,
            "width": width,
        }
        kind = self.rng.choice(
            [
                "norm",
                "act",
                "sum",
                "cap",
                "prepare",
                "prepare",
                "linear",
                "linear",
                "linear",
                "rope",
                "embed",
                "attend",
                "pick",
            ]
        )
        getattr(self, f"_{kind}")(place, width)

    def _try(self, made: Step) -> None:
        now = slice(0, self.now)
        sequence, position = np.array(self.sequence), np.array(self.position)
        if self.pick and made.op != structs.PICK:
            sequence, position = sequence[self.pick], position[self.pick]
        status = run(
            [made], [buffer[now] for buffer in self.buffers], self.now, ids=self.ids[: self.now],
            sequence=sequence[now], position=position[now], pick=self.pick, cache=self.cache,
        )  # fmt: skip
        if status == structs.OK:
            self.steps.append(made)

    def _norm(self, place: dict[str, int], width: int) -> None:
        weight = self.rng.uniform(0.5, 1.5, width).astype(np.float32)
        self._try(step(structs.NORM, kind=int(self.rng.integers(2)), weight=weight, eps=1e-5, **place))

    def _act(self, place: dict[str, int], width: int) -> None:
        more = {"flags": int(self.rng.integers(2)), "in2": self.buffer(), "in2_column": self.columns(width)}
        self._try(step(structs.ACT, kind=int(self.rng.integers(5)), **more, **place))

    def _sum(self, place: dict[str, int], width: int) -> None:
        self._try(step(structs.SUM, in2=self.buffer(), in2_column=self.columns(width), **place))

    def _cap(self, place: dict[str, int], width: int) -> None:
        place |= {"out": place["in_"], "out_column": place["in_column"]}
        self._try(step(structs.CAP, cap=float(self.rng.choice([0, 3])), scale=0.5, **place))

    def _rope(self, place: dict[str, int], width: int) -> None:
        angles = self.rng.uniform(-3, 3, (24, 8))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        place |= {"out": place["in_"], "out_column": place["in_column"]}
        more = {
            "heads": width // 16,
            "head_dim": 16,
            "rotary": 16,
            "weight": cos,
            "bias": sin,
            "positions": 24,
        }
        self._try(step(structs.ROPE, kind=int(self.rng.integers(2)), **more, **place))

    def _embed(self, place: dict[str, int], width: int) -> None:
        if not self.pick:
            flags = {"flags": int(self.rng.integers(2)), "scale": 0.01}
            self._try(step(structs.EMBED, matrix=self.matrix(48, width), **flags, **place))

    def _attend(self, place: dict[str, int], width: int) -> None:
        if self.pick:
            return
        shape = {"heads": 4, "kv_heads": 2, "head_dim": 16}
        source = {"in_": place["in_"], "in2": self.buffer(), "in_column": self.columns(64), "in2_column": 64}
        before = len(self.steps)
        self._try(step(structs.CACHE, **source, **shape))
        if len(self.steps) > before:
            target = {
                "in_": self.buffer(),
                "out": place["out"],
                "in_column": 0,
                "out_column": self.columns(64),
            }
            self._try(step(structs.ATTEND, scale=0.25, window=int(self.rng.integers(3)), **target, **shape))

    def _pick(self, place: dict[str, int], width: int) -> None:
        if not self.pick and self.tokens > 1 and len(self.steps) > 4:
            before = len(self.steps)
            self.pick = self.rng.integers(0, self.tokens, self.tokens - 1).tolist()
            self._try(step(structs.PICK, **place))
            if len(self.steps) == before:
                self.pick = []
            else:
                self.now = self.tokens - 1
                self.slots.clear()

    def _prepare(self, place: dict[str, int], width: int) -> None:
        slot, modes = int(self.rng.integers(SLOTS)), int(self.rng.choice([INT8, INT16, FLOAT, INT8 | FLOAT]))
        m = self.matrix(40, width)
        x = self.buffers[place["in_"]][: self.now, place["in_column"] : place["in_column"] + width]
        self.slots[slot] = (width, modes, machine.prepare(m, np.ascontiguousarray(x), modes))
        self.steps.append(step(structs.PREPARE, slot=slot, kind=modes, matrix=m, **place))

    def _linear(self, place: dict[str, int], width: int) -> None:
        if not self.slots:
            return self._prepare(place, width)
        slot = int(self.rng.choice(sorted(self.slots)))
        inputs, modes, prepared = self.slots[slot]
        mode = int(self.rng.choice([mode for mode in (INT8, INT16, FLOAT) if mode & modes]))
        outputs = 40 if inputs > 1024 else int(self.rng.choice([16, 40, 200, 4096]))
        m, flags = self.matrix(outputs, inputs), int(self.rng.integers(2))
        column = self.columns(outputs)
        y = self.buffers[place["out"]][: self.now, column : column + outputs]
        y[...] = machine.multiply(m, prepared, self.now, modes, mode, None, y.copy() if flags else None)
        made = {"out": place["out"], "out_column": column, "flags": flags, "kind": mode, "in2": modes}
        self.steps.append(step(structs.LINEAR, slot=slot, matrix=m, **made))
        return None

    def all_at_once(self) -> tuple[list[np.ndarray], Cache]:
        buffers = [buffer.copy() for buffer in self.start]
        size = machine.native.load().hgx_prepared_bytes(max(WIDTHS), self.tokens, INT16 | FLOAT)
        slots = [machine.poisoned(size, np.uint8) for _ in range(SLOTS)]
        cache = Cache(1, 2, 2, 24, 16)
        status = run(
            self.steps, buffers, self.tokens, ids=self.ids, sequence=self.sequence, position=self.position,
            pick=self.pick, cache=cache, prepared=slots,
        )  # fmt: skip
        machine.ok(status, [made.op for made in self.steps])
        return buffers, cache


SEEDS = 300 if os.environ.get(EVERYTHING) else 60


@pytest.mark.parametrize("part", range(6))
def test_random_programs(part: int) -> None:
    for seed in range(part, SEEDS, 6):
        rng = np.random.default_rng(900 + seed)
        fuzz = Fuzz(rng, tokens=int(rng.choice([1, 1, 2, 3, 4, 7, 12])))
        with machine.using("scalar", 1):
            while len(fuzz.steps) < 14:
                fuzz.grow()
        tiers = machine.tiers()
        for tier, threads in ((tiers[-1], 1), (tiers[-1], 2), (tiers[seed % len(tiers)], 3), (tiers[-1], 4)):
            with machine.using(tier, threads):
                buffers, cache = fuzz.all_at_once()
            for number, (got, expected) in enumerate(zip(buffers, fuzz.buffers, strict=True)):
                wrong = np.unique(np.argwhere(~((got == expected) | (got != got)))[:, 1])
                assert same(got, expected), (
                    seed,
                    tier,
                    threads,
                    number,
                    wrong,
                    [made.op for made in fuzz.steps],
                )
            assert same(cache.keys[0], fuzz.cache.keys[0]) and same(cache.values[0], fuzz.cache.values[0])
