"""A design and the tensors of a file → the list of steps that the native library runs (`csrc/higgsx.h`).

Weights stay where they are in the mapped file. Matrices that read one activation and have the same
transform share one prepared copy of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from higgsx.errors import ModelError
from higgsx.kernels import precision, structs
from higgsx.kernels.native import Matrix, Step
from higgsx.runtime import rotary
from higgsx.runtime.design import HEADS, RMS, Attention, Design, Feed, Layer, Linear, Norm, Rope
from higgsx.runtime.tensors import Tensors

X, OTHER, NORMED, PART, QKV, SEEN, GATE, UP, LOGITS = range(9)
"""Buffers: what flows through the layers, twice (it changes places); a norm's result; what is to be added;
queries, keys and values; what attention saw; two of the feed; logits."""

_ACTS = {
    "relu": structs.RELU,
    "gelu_tanh": structs.GELU_TANH,
    "gelu_erf": structs.GELU_ERF,
    "silu": structs.SILU,
    "quick_gelu": structs.QUICK_GELU,
}


Prepared = dict[str, tuple[int, int, Matrix, int]]
"""By name of a linear: the slot, the modes it was made with, the matrix, the mode of the product."""
Write = Callable[[int], None]


class Program:
    """steps      ctypes array
    needed     steps up to the last write into a cache: enough for tokens whose logits nobody wants
    widths     columns of every buffer
    slots      (inputs, modes) of every place for prepared activations
    """

    def __init__(self, design: Design, tensors: Tensors, positions: int, mode: str) -> None:
        """positions: tokens of a sequence at most; mode: a name of `higgsx.kernels.precision`."""
        self.design = design
        self._tensors, self._positions, self._mode = tensors, positions, precision.named(mode)
        self._steps: list[Step] = []
        self._keep: list[object] = [tensors]
        self._tables: dict[Rope, tuple[np.ndarray, np.ndarray]] = {}
        self.slots: list[tuple[int, int]] = []
        self._x = X
        self.needed = 0
        self._build()
        self.steps = (Step * len(self._steps))(*self._steps)
        self.widths = self._widths()

    def _widths(self) -> list[int]:
        design = self.design
        fused = any(layer.feed.fused_gate for layer in design.layers)
        return [
            design.hidden, design.hidden, design.hidden, design.hidden, design.queries + 2 * design.keys,
            design.queries, design.inner * (2 if fused else 1), design.inner, design.vocabulary,
        ]  # fmt: skip

    def _build(self) -> None:
        design, tensors = self.design, self._tensors
        embedding = tensors.matrix(design.embedding + ".weight", design.vocabulary, design.hidden)
        self._add(structs.EMBED, out=X, matrix=self._at(embedding), scale=design.embed_scale)
        if design.learned is not None:
            rows = design.positions + design.learned_offset
            table = tensors.matrix(design.learned + ".weight", rows, design.hidden)
            at = self._at(table)
            self._add(structs.EMBED, out=X, matrix=at, scale=1.0, flags=1, kind=design.learned_offset)
        for index, layer in enumerate(design.layers):
            self._layer(index, layer, last=index == len(design.layers) - 1)
        self._say()
        rest = next(tensors.unused(), None)
        if rest is not None:
            raise ModelError("tensor has no place in the model", where=rest, code="FAMILY")

    def _layer(self, index: int, layer: Layer, last: bool) -> None:
        attention, feed = layer.attention, layer.feed
        hidden = self.design.hidden
        source = self._normed(None if layer.norm_last else layer.before_attention)
        readers = list(attention.qkv)
        shared = layer.parallel and layer.before_feed is None
        if shared:
            readers += _readers(feed)
        found = self._prepare(source, hidden, [self._sized(linear, layer) for linear in readers])
        self._attend(index, attention, found)
        if layer.parallel:
            if not shared:
                source = self._normed(layer.before_feed)
                found |= self._prepare(source, hidden, [self._sized(one, layer) for one in _readers(feed)])
            # what was prepared is used up before its slots serve again, and x before it changes
            self._feed(feed, found)
            self._close(attention.out, SEEN, self.design.queries, None, None)
            self._close(feed.down, self._acted(feed), self.design.inner, None, None)
            if last:
                self._pick()
            return
        first = layer.before_attention if layer.norm_last else None
        self._close(attention.out, SEEN, self.design.queries, layer.after_attention, first)
        if last:
            self._pick()
        source = self._normed(None if layer.norm_last else layer.before_feed)
        found = self._prepare(source, hidden, [self._sized(linear, layer) for linear in _readers(feed)])
        self._feed(feed, found)
        second = layer.before_feed if layer.norm_last else None
        self._close(feed.down, self._acted(feed), self.design.inner, layer.after_feed, second)

    def _attend(self, index: int, attention: Attention, found: Prepared) -> None:
        design = self.design
        width, heads, kv = design.head_dim, design.heads, design.kv_heads
        queries, keys = design.queries, design.keys
        if attention.packing == HEADS:
            self._by_heads(attention.qkv[0], found)
        else:
            column = 0
            for linear in attention.qkv:
                self._multiply(linear, found, QKV, column)
                column += found[linear.name][2].outputs
        for norm, at, count in ((attention.q_norm, 0, heads), (attention.k_norm, queries, kv)):
            if norm is not None:
                self._norm(norm, QKV, QKV, count * width, count, at)
        if attention.rope is not None:
            cosines, sines = self._table(attention.rope)
            self._add(
                structs.ROPE, in_=QKV, out=QKV, heads=heads + kv, head_dim=width,
                kind=int(attention.rope.neighbours), rotary=2 * cosines.shape[1],
                weight=cosines.ctypes.data, bias=sines.ctypes.data, positions=len(cosines),
            )  # fmt: skip
        self._add(
            structs.CACHE, in_=QKV, in_column=queries, in2=QKV, in2_column=queries + keys, heads=heads,
            kv_heads=kv, head_dim=width, layer=index,
        )  # fmt: skip
        self.needed = len(self._steps)
        self._add(
            structs.ATTEND, in_=QKV, out=SEEN, heads=heads, kv_heads=kv, head_dim=width, layer=index,
            scale=attention.scale, window=attention.window, cap=attention.cap,
        )  # fmt: skip

    def _by_heads(self, linear: Linear, found: Prepared) -> None:
        """q, k and v of one head stand together in the matrix: they are multiplied part by part."""
        design = self.design
        width = design.head_dim
        for part, begin in enumerate((0, design.queries, design.queries + design.keys)):
            for head in range(design.heads):
                rows = (3 * head + part) * width
                self._multiply(linear, found, QKV, begin + head * width, rows=(rows, width))

    def _feed(self, feed: Feed, found: Prepared) -> None:
        inner, act = self.design.inner, _ACTS[feed.activation]
        if feed.fused_gate:
            self._multiply(feed.up, found, GATE)
            self._add(
                structs.ACT, in_=GATE, in2=GATE, in2_column=inner, out=GATE, width=inner, kind=act, flags=1
            )
        elif feed.gate is not None:
            self._multiply(feed.gate, found, GATE)
            self._multiply(feed.up, found, UP)
            self._add(structs.ACT, in_=GATE, in2=UP, out=GATE, width=inner, kind=act, flags=1)
        else:
            self._multiply(feed.up, found, UP)
            self._add(structs.ACT, in_=UP, out=UP, width=inner, kind=act)

    @staticmethod
    def _acted(feed: Feed) -> int:
        return GATE if feed.fused_gate or feed.gate is not None else UP

    def _close(self, linear: Linear, source: int, inputs: int, after: Norm | None, last: Norm | None) -> None:
        """x + norm(linear(source)), then perhaps a norm of the sum."""
        found = self._prepare(source, inputs, [(linear, self.design.hidden)])
        if after is None:
            self._multiply(linear, found, self._x, flags=structs.ADD)
        else:
            self._multiply(linear, found, PART)
            self._norm(after, PART, NORMED, self.design.hidden)
            self._add(structs.SUM, in_=self._x, in2=NORMED, out=self._x, width=self.design.hidden)
        if last is not None:
            self._move(lambda other: self._norm(last, self._x, other, self.design.hidden))

    def _pick(self) -> None:
        """From here on only the tokens whose logits are wanted."""
        self._move(lambda other: self._add(structs.PICK, in_=self._x, out=other, width=self.design.hidden))

    def _say(self) -> None:
        design = self.design
        source = self._normed(design.norm)
        name = design.embedding if design.tied else design.head.name
        separate = self._tensors.stored(design.head.name + ".weight")
        if design.tied and separate not in (None, self._tensors.stored(design.embedding + ".weight")):
            raise ModelError(
                "is tied by the configuration, but a tensor of its own", where=design.head.name, code="FAMILY"
            )
        head = Linear(name, design.head.bias)
        bias = design.head.name + ".bias"
        found = self._prepare(source, design.hidden, [(head, design.vocabulary)])
        self._multiply(head, found, LOGITS, bias=bias if design.head.bias else None)
        if design.logit_cap:
            self._add(structs.CAP, in_=LOGITS, out=LOGITS, width=design.vocabulary, cap=design.logit_cap)

    # Pieces --------------------------------------------------------------------------------------------

    def _sized(self, linear: Linear, layer: Layer) -> tuple[Linear, int]:
        """A reader of a layer's activation with its outputs."""
        design, feed = self.design, layer.feed
        if linear in _readers(feed):
            return linear, design.inner * (2 if feed.fused_gate else 1)
        if len(layer.attention.qkv) == 1:
            return linear, design.queries + 2 * design.keys
        return linear, design.queries if linear is layer.attention.qkv[0] else design.keys

    def _prepare(self, source: int, inputs: int, readers: Sequence[tuple[Linear, int]]) -> Prepared:
        """One prepared copy for each transform that the readers have, in slots of their own."""
        modes: dict[object, int] = {}
        chosen = []
        for linear, outputs in readers:
            name = linear.name + ".weight"
            matrix = self._tensors.matrix(name, outputs, inputs, linear.transposed)
            transform, bits = self._tensors.transform(name), self._tensors.bits(name)
            mode = precision.mode_of(bits, self._mode) if bits else structs.FLOAT
            modes[transform] = modes.get(transform, 0) | mode
            chosen.append((linear, matrix, transform, mode))
        found: Prepared = {}
        slots: dict[object, int] = {}
        for linear, matrix, transform, mode in chosen:
            if transform not in slots:
                slots[transform] = self._slot(inputs, modes[transform], taken=set(slots.values()))
                self._add(
                    structs.PREPARE, in_=source, slot=slots[transform], matrix=self._at(matrix),
                    kind=modes[transform], width=inputs,
                )  # fmt: skip
            found[linear.name] = (slots[transform], modes[transform], matrix, mode)
        return found

    def _slot(self, inputs: int, modes: int, taken: set[int]) -> int:
        """Slots are told apart by what fits into them; a layer's own are never taken twice."""
        wanted = (inputs, modes)
        for index, slot in enumerate(self.slots):
            if slot == wanted and index not in taken:
                return index
        self.slots.append(wanted)
        return len(self.slots) - 1

    def _multiply(
        self,
        linear: Linear,
        found: Prepared,
        out: int,
        column: int = 0,
        flags: int = 0,
        bias: str | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        slot, modes, matrix, mode = found[linear.name]
        bias = bias or (linear.name + ".bias" if linear.bias else None)
        values = None if bias is None else self._tensors.vector(bias, matrix.outputs)
        if rows is not None:
            first, count = rows
            matrix = self._tensors.rows(matrix, first, count)
            values = None if values is None else values[first : first + count]
        self._add(
            structs.LINEAR, slot=slot, in2=modes, kind=mode, out=out, out_column=column, flags=flags,
            matrix=self._at(matrix), bias=None if values is None else values.ctypes.data,
        )  # fmt: skip

    def _normed(self, norm: Norm | None) -> int:
        """The buffer that holds the norm of x."""
        if norm is None:
            return self._x
        self._norm(norm, self._x, NORMED, self.design.hidden)
        return NORMED

    def _norm(self, norm: Norm, source: int, out: int, width: int, groups: int = 1, column: int = 0) -> None:
        weight = self._tensors.vector(norm.name + ".weight", width // groups)
        bias = None
        if norm.kind != RMS:
            bias = self._tensors.vector(norm.name + ".bias", width // groups).ctypes.data
        self._add(
            structs.NORM, in_=source, out=out, in_column=column, out_column=column, width=width,
            groups=groups, kind=0 if norm.kind == RMS else 1, eps=norm.eps, offset=norm.offset,
            weight=weight.ctypes.data, bias=bias,
        )  # fmt: skip

    def _move(self, write: Write) -> None:
        """What flows through the layers changes its buffer."""
        other = OTHER if self._x == X else X
        write(other)
        self._x = other

    def _table(self, rope: Rope) -> tuple[np.ndarray, np.ndarray]:
        if rope not in self._tables:
            self._tables[rope] = rotary.tables(rope, self._positions)
        return self._tables[rope]

    def _at(self, matrix: Matrix) -> object:
        self._keep.append(matrix)
        return ctypes.pointer(matrix)

    def _add(self, op: int, **values: object) -> None:
        self._steps.append(Step(op=op, **values))


def _readers(feed: Feed) -> list[Linear]:
    return [feed.up] if feed.gate is None else [feed.gate, feed.up]
