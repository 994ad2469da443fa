"""One model as the lean decoder computes it, resolved from family and configuration: no choices are left.

Names of tensors are those of the checkpoint, complete but for `.weight` and `.bias`.
"""

from __future__ import annotations

from dataclasses import dataclass

RMS, LAYER = "rms", "layer"
"""x / sqrt(mean x^2 + eps) · w (Zhang 2019), (x - mean) / sqrt(var + eps) · w + b (Ba et al. 2016)."""

SPLIT, THIRDS, HEADS = "split", "thirds", "heads"
"""q, k, v: three matrices; one matrix, one after the other; one matrix, in turn for every head."""


@dataclass(frozen=True)
class Norm:
    """offset is added to the weight. A norm has a bias exactly where kind is `layer`."""

    name: str
    kind: str
    eps: float
    offset: float = 0.0


@dataclass(frozen=True)
class Linear:
    """transposed: the checkpoint holds [inputs, outputs]."""

    name: str
    bias: bool
    transposed: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021) of the first `2 · len(frequencies)` numbers of a head.

    neighbours   pairs are neighbours; else the first half with the second half
    frequencies  radians per position, float32 values
    factor       multiplies cosines and sines
    """

    neighbours: bool
    frequencies: tuple[float, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class Attention:
    """qkv as `packing` says. window: keys that are seen, the token's own included, 0: all.
    scale: of the scores; cap: of the scores, 0: none."""

    qkv: tuple[Linear, ...]
    packing: str
    out: Linear
    scale: float
    rope: Rope | None = None
    window: int = 0
    cap: float = 0.0
    q_norm: Norm | None = None
    k_norm: Norm | None = None


@dataclass(frozen=True)
class Feed:
    """`down(act(up x))`, or with `gate` `down(act(gate x) · up x)`; `up` alone may hold both, gate first."""

    up: Linear
    down: Linear
    activation: str
    gate: Linear | None = None
    fused_gate: bool = False


@dataclass(frozen=True)
class Layer:
    """In order: norms before, attention, norm after, sum; the same for feed. None: no norm there.

    parallel   both read the layer's input: `x + attention(norm x) + feed(norm x)`; the feed's norm is None
               where it reads the attention's
    norm_last  norms stand after the sums (the original order of Vaswani et al. 2017)
    """

    attention: Attention
    feed: Feed
    before_attention: Norm | None
    before_feed: Norm | None
    after_attention: Norm | None = None
    after_feed: Norm | None = None
    parallel: bool = False
    norm_last: bool = False


@dataclass(frozen=True)
class Design:
    """positions       tokens that the model takes
    embed_scale     of looked-up rows
    learned         table of positions, None without; its first rows, `learned_offset` of them, are unused
    logit_cap       `cap · tanh(x / cap)` of the logits, 0: none
    """

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    positions: int
    embedding: str
    layers: tuple[Layer, ...]
    norm: Norm | None
    head: Linear
    tied: bool
    embed_scale: float = 1.0
    learned: str | None = None
    learned_offset: int = 0
    logit_cap: float = 0.0

    @property
    def queries(self) -> int:
        """Columns of all queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Columns of all keys, and of all values."""
        return self.kv_heads * self.head_dim
