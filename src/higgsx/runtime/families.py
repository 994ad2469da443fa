"""The families of decoder-only language models that the lean decoder computes, as data.

A family is a description: which tensors there are, what they are called, which norm, which rotary
positions, where biases stand. `higgsx.runtime.resolve` joins it with a configuration. A new family of the
same kind of parts is one entry here; what needs other parts runs through transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from higgsx.runtime.design import HEADS, LAYER, RMS, SPLIT, THIRDS

SIZES: dict[str, str] = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "inner": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}

Says = bool | str
"""True, false, or the key of the configuration that says it."""


@dataclass(frozen=True)
class Family:
    """base          what tensor names begin with; some checkpoints leave (parts of) it out
    sizes         our word → key of the configuration. kv_heads defaults to heads, head_dim to hidden / heads,
                  inner to 4 · hidden, where `derived` names them; other sizes must be there
    eps           key of the norm's epsilon, or the number
    transposed    the layers' matrices are stored [inputs, outputs]
    qkv_bias, ... whether there are biases
    rope          "": none, "halves", "neighbours"; `theta` and `partial` are (key, value where absent);
                  stretched: frequencies may be changed for longer texts
    window        "": none; "all": every layer; "upper": the layers from `max_window_layers` on, if
                  `use_sliding_window` says so; "pattern": all but every n-th layer (`sliding_window_pattern`)
    scale_from    key of the number whose root divides the scores; "": the head's width
    scale_flags   keys of "divide by the root of the head's width", "divide by the layer's number"
    logit_cap     key of a cap of the logits
    norm_first    key that says whether norms stand before attention and feed, true where absent
    as_hidden     key that must say the hidden size (or nothing)
    fixed         key → values it may have (or be absent): others would change the arithmetic
    """

    model_type: str
    architecture: str
    base: str
    embedding: str
    layer: str
    final_norm: str
    norm: str
    eps: str | float
    before_attention: str
    qkv: tuple[str, ...]
    out: str
    up: str
    down: str
    activation: str
    gate: str = ""
    fused_gate: bool = False
    before_feed: str = ""
    after_attention: str = ""
    after_feed: str = ""
    q_norm: str = ""
    k_norm: str = ""
    qk_norm_if: Says = True
    packing: str = SPLIT
    transposed: bool = False
    qkv_bias: Says = False
    out_bias: Says = False
    feed_bias: Says = False
    head: str = "lm_head"
    head_bias: bool = False
    tied: bool = False
    parallel: Says = False
    norm_offset: float = 0.0
    embed_root: bool = False
    learned: str = ""
    learned_offset: int = 0
    rope: str = "halves"
    theta: tuple[str, float] = ("rope_theta", 10000.0)
    partial: tuple[str, float] | None = None
    stretched: bool = True
    rotary_dim: str = ""
    window: str = ""
    scale_from: str = ""
    scale_flags: tuple[str, str] | None = None
    logit_cap: str = ""
    norm_first: str = ""
    as_hidden: str = ""
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    derived: tuple[str, ...] = ("kv_heads", "head_dim")
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    harmless: tuple[str, ...] = ()


_LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    base="model.",
    embedding="embed_tokens",
    layer="layers.{}.",
    final_norm="norm",
    norm=RMS,
    eps="rms_norm_eps",
    before_attention="input_layernorm",
    before_feed="post_attention_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    activation="hidden_act",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    feed_bias="mlp_bias",
    harmless=("pretraining_tp",),
)
_QWEN2 = replace(
    _LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    qkv_bias=True,
    out_bias=False,
    feed_bias=False,
    window="upper",
    derived=("head_dim",),
    harmless=(),
)
_QWEN3 = replace(
    _QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    q_norm="self_attn.q_norm",
    k_norm="self_attn.k_norm",
    derived=(),
)
_MISTRAL = replace(
    _QWEN2, model_type="mistral", architecture="MistralForCausalLM", qkv_bias=False, window="all"
)
_GEMMA3 = replace(
    _QWEN3,
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    after_attention="post_attention_layernorm",
    before_feed="pre_feedforward_layernorm",
    after_feed="post_feedforward_layernorm",
    activation="hidden_activation",
    tied=True,
    norm_offset=1.0,
    embed_root=True,
    window="pattern",
    theta=("rope_theta", 1e6),
    scale_from="query_pre_attn_scalar",
    logit_cap="final_logit_softcapping",
    fixed={"use_bidirectional_attention": (False,), "attn_logit_softcapping": ()},
)
_PHI3 = replace(
    _MISTRAL,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    qkv=("self_attn.qkv_proj",),
    packing=THIRDS,
    gate="",
    up="mlp.gate_up_proj",
    fused_gate=True,
    partial=("partial_rotary_factor", 1.0),
    stretched=False,
    derived=("kv_heads", "head_dim"),
    harmless=("original_max_position_embeddings",),
)
_GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    base="transformer.",
    embedding="wte",
    learned="wpe",
    layer="h.{}.",
    final_norm="ln_f",
    norm=LAYER,
    eps="layer_norm_epsilon",
    before_attention="ln_1",
    before_feed="ln_2",
    qkv=("attn.c_attn",),
    packing=THIRDS,
    transposed=True,
    out="attn.c_proj",
    up="mlp.c_fc",
    down="mlp.c_proj",
    activation="activation_function",
    qkv_bias=True,
    out_bias=True,
    feed_bias=True,
    tied=True,
    rope="",
    scale_flags=("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    sizes=SIZES
    | {
        "hidden": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "inner": "n_inner",
        "positions": "n_positions",
    },
    derived=("kv_heads", "head_dim", "inner"),
    fixed={"reorder_and_upcast_attn": (False, True), "add_cross_attention": (False,)},
    harmless=(
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "n_ctx",
    ),
)
_GPTJ = replace(
    _GPT2,
    model_type="gptj",
    architecture="GPTJForCausalLM",
    learned="",
    before_feed="",
    parallel=True,
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    packing=SPLIT,
    transposed=False,
    out="attn.out_proj",
    up="mlp.fc_in",
    down="mlp.fc_out",
    qkv_bias=False,
    out_bias=False,
    head_bias=True,
    tied=False,
    rope="neighbours",
    rotary_dim="rotary_dim",
    scale_flags=None,
    fixed={"scale_attn_weights": (True,), "rotary": (True,)},
)
_OPT = Family(
    "opt",
    "OPTForCausalLM",
    base="model.decoder.",
    embedding="embed_tokens",
    learned="embed_positions",
    learned_offset=2,
    layer="layers.{}.",
    final_norm="final_layer_norm",
    norm=LAYER,
    eps=1e-5,
    before_attention="self_attn_layer_norm",
    before_feed="final_layer_norm",
    norm_first="do_layer_norm_before",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.out_proj",
    up="fc1",
    down="fc2",
    activation="activation_function",
    qkv_bias="enable_bias",
    out_bias="enable_bias",
    feed_bias="enable_bias",
    tied=True,
    rope="",
    sizes=SIZES | {"inner": "ffn_dim"},
    as_hidden="word_embed_proj_dim",
    fixed={"layer_norm_elementwise_affine": (True,), "_remove_final_layer_norm": (False,)},
)
_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    base="gpt_neox.",
    embedding="embed_in",
    layer="layers.{}.",
    final_norm="final_layer_norm",
    norm=LAYER,
    eps="layer_norm_eps",
    before_attention="input_layernorm",
    before_feed="post_attention_layernorm",
    parallel="use_parallel_residual",
    qkv=("attention.query_key_value",),
    packing=HEADS,
    out="attention.dense",
    up="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    activation="hidden_act",
    qkv_bias=True,
    out_bias=True,
    feed_bias=True,
    head="embed_out",
    theta=("rotary_emb_base", 10000.0),
    partial=("rotary_pct", 0.25),
    fixed={"attention_bias": (True,)},
)
_PHI = Family(
    "phi",
    "PhiForCausalLM",
    base="model.",
    embedding="embed_tokens",
    layer="layers.{}.",
    final_norm="final_layernorm",
    norm=LAYER,
    eps="layer_norm_eps",
    before_attention="input_layernorm",
    parallel=True,
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.dense",
    up="mlp.fc1",
    down="mlp.fc2",
    activation="hidden_act",
    q_norm="self_attn.q_layernorm",
    k_norm="self_attn.k_layernorm",
    qk_norm_if="qk_layernorm",
    qkv_bias=True,
    out_bias=True,
    feed_bias=True,
    head_bias=True,
    partial=("partial_rotary_factor", 0.5),
)

FAMILIES: tuple[Family, ...] = (
    _LLAMA,
    _QWEN2,
    _QWEN3,
    _MISTRAL,
    _GEMMA3,
    _PHI3,
    _GPT2,
    _GPTJ,
    _OPT,
    _NEOX,
    _PHI,
)
BY_TYPE: Mapping[str, Family] = {family.model_type: family for family in FAMILIES}

SAYS_WHERE_ABSENT: Mapping[str, bool] = {
    "attention_bias": False,
    "mlp_bias": False,
    "qk_layernorm": False,
    "enable_bias": True,
    "use_parallel_residual": True,
}
"""What an absent key of `Says` means."""
