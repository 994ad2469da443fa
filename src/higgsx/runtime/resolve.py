"""Family and configuration → the design of one model; a ModelError (code FAMILY) says why it is not known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from higgsx.runtime import rotary
from higgsx.runtime.config import HARMLESS, MOST, Fields, unknown
from higgsx.runtime.design import Attention, Design, Feed, Layer, Linear, Norm, Rope
from higgsx.runtime.families import BY_TYPE, SAYS_WHERE_ABSENT, Family, Says

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}
_MOST_LAYERS = 1024
_LOCAL_THETA = 10000.0
Ropes = Callable[[int], Rope | None]
"""The rotary positions of a layer, given its window."""


def design_of(config: Mapping[str, object]) -> Design:
    """The design that a configuration describes. Names of tensors begin with the family's base."""
    fields = Fields(config)
    kind = fields.raw("model_type")
    family = BY_TYPE.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise unknown("is no family of the lean decoder", "model_type", got=kind)
    architectures = fields.raw("architectures")
    if architectures not in (None, [family.architecture]):
        raise unknown("is not the family's", "architectures", got=architectures, expected=family.architecture)
    fields.must_be("is_encoder_decoder", False)
    for key, allowed in family.fixed.items():
        fields.must_be(key, *allowed)
    design = _Resolver(family, fields).design()
    fields.finish(HARMLESS | frozenset(family.harmless))
    return design


class _Resolver:
    def __init__(self, family: Family, fields: Fields) -> None:
        self.family, self.fields = family, fields
        self.hidden = self._size("hidden")
        self.heads = self._size("heads")
        self.kv_heads = self._size("kv_heads", self.heads)
        missing = self.hidden // self.heads if self.hidden % self.heads == 0 else None
        self.head_dim = self._size("head_dim", missing)
        self.inner = self._size("inner", 4 * self.hidden)
        self.positions = self._size("positions")
        self.count = self._size("layers", most=_MOST_LAYERS)
        self.eps = family.eps if isinstance(family.eps, float) else fields.number(family.eps)
        if self.heads % self.kv_heads:
            raise unknown("heads cannot share keys evenly", family.sizes["kv_heads"], got=self.kv_heads)
        if family.as_hidden and fields.count(family.as_hidden, self.hidden) != self.hidden:
            raise unknown("embeddings are projected", family.as_hidden)

    def _size(self, word: str, missing: int | None = None, most: int = MOST) -> int:
        default = missing if word in self.family.derived else None
        return self.fields.count(self.family.sizes[word], default, most=most)

    def says(self, what: Says) -> bool:
        return what if isinstance(what, bool) else self.fields.flag(what, SAYS_WHERE_ABSENT[what])

    def norm(self, name: str) -> Norm:
        return Norm(name, self.family.norm, self.eps, self.family.norm_offset)

    def design(self) -> Design:
        family, fields = self.family, self.fields
        first = not family.norm_first or fields.flag(family.norm_first, True)
        windows, ropes = self.windows(), self.ropes()
        activation = ACTIVATIONS[fields.word(family.activation, ACTIVATIONS)]
        layers = tuple(
            self.layer(index, windows[index], ropes(windows[index]), activation, not first)
            for index in range(self.count)
        )
        return Design(
            family=family.model_type,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            inner=self.inner,
            vocabulary=self._size("vocabulary"),
            positions=self.positions,
            embedding=family.base + family.embedding,
            layers=layers,
            norm=self.norm(family.base + family.final_norm) if first else None,
            head=Linear(family.head, family.head_bias),
            tied=fields.flag("tie_word_embeddings", family.tied),
            embed_scale=float(np.float32(math.sqrt(self.hidden))) if family.embed_root else 1.0,
            learned=family.base + family.learned if family.learned else None,
            learned_offset=family.learned_offset,
            logit_cap=fields.number(family.logit_cap) if family.logit_cap in fields else 0.0,
        )

    def layer(self, index: int, window: int, rope: Rope | None, activation: str, norm_last: bool) -> Layer:
        family = self.family
        place = family.base + family.layer.format(index)

        def norm(name: str) -> Norm | None:
            return self.norm(place + name) if name else None

        def linear(name: str, bias: bool) -> Linear:
            return Linear(place + name, bias, family.transposed)

        has_inner_norms = self.says(family.qk_norm_if) if family.q_norm else False
        qkv_bias = self.says(family.qkv_bias)
        feed_bias = self.says(family.feed_bias)
        attention = Attention(
            qkv=tuple(linear(name, qkv_bias) for name in family.qkv),
            packing=family.packing,
            out=linear(family.out, self.says(family.out_bias)),
            scale=self.scale(index),
            rope=rope,
            window=window,
            q_norm=norm(family.q_norm) if has_inner_norms else None,
            k_norm=norm(family.k_norm) if has_inner_norms else None,
        )
        feed = Feed(
            up=linear(family.up, feed_bias),
            down=linear(family.down, feed_bias),
            activation=activation,
            gate=linear(family.gate, feed_bias) if family.gate else None,
            fused_gate=family.fused_gate,
        )
        return Layer(
            attention=attention,
            feed=feed,
            before_attention=norm(family.before_attention),
            before_feed=norm(family.before_feed),
            after_attention=norm(family.after_attention),
            after_feed=norm(family.after_feed),
            parallel=self.says(family.parallel),
            norm_last=norm_last,
        )

    def scale(self, index: int) -> float:
        family, fields = self.family, self.fields
        if family.scale_from:
            return fields.number(family.scale_from) ** -0.5
        scale = self.head_dim**-0.5
        if family.scale_flags is not None:
            by_width, by_layer = family.scale_flags
            scale = scale if fields.flag(by_width, True) else 1.0
            scale = scale / (index + 1) if fields.flag(by_layer, False) else scale
        return scale

    def windows(self) -> list[int]:
        """Of every layer; 0: it sees everything."""
        kind, fields = self.family.window, self.fields
        if not kind:
            return [0] * self.count
        window = fields.count("sliding_window", 0, least=0)
        if kind == "all":
            return [window] * self.count
        types = self.layer_types(self.pattern() if kind == "pattern" else self.upper(window))
        if True in types and not window:
            raise unknown("layers have a window without a size", "layer_types")
        return [window if sliding else 0 for sliding in types]

    def upper(self, window: int) -> list[bool]:
        """Whether a layer has a window."""
        first = self.fields.count("max_window_layers", 28, least=0)
        used = self.fields.flag("use_sliding_window", False)
        if not used and "layer_types" in self.fields:
            self.fields.must_be("layer_types", ["full_attention"] * self.count)
        return [used and window > 0 and index >= first for index in range(self.count)]

    def pattern(self) -> list[bool]:
        most = self.fields.count("_sliding_window_pattern", 6)
        every = self.fields.count("sliding_window_pattern", most)
        return [(index + 1) % every != 0 for index in range(self.count)]

    def layer_types(self, otherwise: list[bool]) -> list[bool]:
        types = self.fields.raw("layer_types")
        if types is None:
            return otherwise
        if (
            not isinstance(types, list)
            or len(types) != self.count
            or any(not isinstance(one, str) or one not in rotary.LAYER_TYPES for one in types)
        ):
            raise unknown("has types of layers that are not known", "layer_types", got=types)
        return [one == "sliding_attention" for one in types]

    def ropes(self) -> Ropes:
        family, fields = self.family, self.fields
        if not family.rope:
            return lambda window: None
        if family.rotary_dim:
            width = fields.count(family.rotary_dim, most=self.head_dim)
            if width % 2:
                raise unknown("rotates an odd number of dimensions", family.rotary_dim, got=width)
            rope = Rope(family.rope == "neighbours", rotary.plain_frequencies(width))
            return lambda window: rope
        theta = fields.number(*family.theta)
        if family.window == "pattern":
            wide = self.rope(rotary.rope_parameters(fields, "full_attention"), theta)
            local = fields.number("rope_local_base_freq", _LOCAL_THETA)
            near = self.rope(self.local_parameters(), local)
            return lambda window: near if window else wide
        one = self.rope(rotary.rope_parameters(fields), theta)
        return lambda window: one

    def local_parameters(self) -> Mapping[str, object]:
        """Of layers with a window: an older configuration scales the others alone."""
        found = self.fields.raw("rope_parameters")
        nested = isinstance(found, Mapping) and any(key in found for key in rotary.LAYER_TYPES)
        if nested and "rope_scaling" not in self.fields:
            return rotary.rope_parameters(self.fields, "sliding_attention")
        if "rope_parameters" in self.fields:
            raise unknown("says the same for all layers", "rope_parameters", got=found)
        return {}

    def rope(self, parameters: Mapping[str, object], theta: float) -> Rope:
        partial = self.family.partial
        share = self.fields.number(*partial) if partial else 1.0
        named = parameters.get("rope_type") or parameters.get("type") or "default"
        if named != "default" and not self.family.stretched:
            raise unknown("kind of rotary positions is not known", "rope_parameters", got=named)
        if named not in ("default", "linear") and "original_max_position_embeddings" in self.fields:
            raise unknown("was trained with other positions", "original_max_position_embeddings")
        return rotary.rope_of(
            parameters, self.head_dim, self.positions,
            theta=theta, partial=share, may_be_partial=partial is not None,
        )  # fmt: skip
