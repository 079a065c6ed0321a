"""Llama and the decoders that differ from it in a few ways each.

Queries, keys and values are separate; keys and values may be shared by groups of query heads. The
MLP is gated, and positions are rotary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from surgery.families.record import (
    KEYS,
    Factor,
    Family,
    Role,
    SomeBlocks,
    Switch,
    TensorRule,
    beside,
    module,
)
from surgery.families.rotary import FULL, SLIDING, Absent, Rotary

BLOCK = "model.layers.{block}."
ATTENTION = BLOCK + "self_attn"
BIASED = Switch("attention_bias", default=False)


def attention(
    *,
    qkv: Switch | bool = BIASED,
    out: Switch | bool = BIASED,
    output: str = "o_proj",
    qk_norm: Literal["head", "all"] | None = None,
    norm_when: Switch | None = None,
    query: str = "q",
    blocks: SomeBlocks | None = None,
) -> tuple[TensorRule, ...]:
    """The tensors of attention.

    `qkv`, `out`: whether queries, keys and values, and the output, have biases, as for `module`.
    `output`: the name of the output projection. `norm_when`: the switch of norms of queries and
    keys. `query`: the rows of queries; `blocks`: which attend, if not all.
    """
    sizes = ("h", "h") if qk_norm == "head" else ("q", "kv")

    def gain(name: str, role: Role, size: str) -> TensorRule:
        return TensorRule(f"{ATTENTION}.{name}", (size,), role, when=norm_when, blocks=blocks)

    gains = (
        gain("q_norm.weight", "query_norm", sizes[0]),
        gain("k_norm.weight", "key_norm", sizes[1]),
    )
    some: Any = {"bias": qkv, "blocks": blocks}
    return (
        *module(f"{ATTENTION}.q_proj", query, "d", role="query", **some),
        *module(f"{ATTENTION}.k_proj", "kv", "d", role="key", **some),
        *module(f"{ATTENTION}.v_proj", "kv", "d", role="value", **some),
        *module(f"{ATTENTION}.{output}", "d", "q", role="output", bias=out, blocks=blocks),
        *(gains if qk_norm else ()),
        *beside(ATTENTION, "rotary_emb.inv_freq"),
    )


def gated(
    name: str = "mlp",
    width: str = "ff",
    *,
    bias: Switch | bool = False,
    blocks: SomeBlocks | None = None,
) -> tuple[TensorRule, ...]:
    """The tensors of the MLP, of that width; `blocks`: which have it."""
    return (
        *module(f"{BLOCK}{name}.gate_proj", width, "d", bias=bias, blocks=blocks),
        *module(f"{BLOCK}{name}.up_proj", width, "d", bias=bias, blocks=blocks),
        *module(f"{BLOCK}{name}.down_proj", "d", width, bias=bias, blocks=blocks),
    )


def decoder(
    name: str,
    rules: tuple[TensorRule, ...],
    *,
    settings: str = "",
    last_norm: tuple[TensorRule, ...] | None = None,
    **fields: Any,
) -> Family:
    """The record of a decoder of that name in the library: `rules` are those of a block."""
    return Family(
        **{
            "model_type": name.lower(),
            "architecture": f"{name}ForCausalLM",
            "title": name,
            "attention": ATTENTION,
            "config_keys": GROUPED,
            "epsilon": "rms_norm_eps",
            "rotary": Rotary(),
            "settings": f"attention_dropout hidden_act {settings}",
            "rules": (
                *module("model.embed_tokens", "vocab", "d", bias=False),
                *rules,
                *(norm("model.norm") if last_norm is None else last_norm),
                TensorRule("model.rotary_emb.inv_freq", None, optional=True),
                TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
            ),
            **fields,
        }
    )


def norm(name: str) -> tuple[TensorRule, ...]:
    return module(name, "d", bias=False)


GROUPED = {**KEYS, "num_groups": "num_key_value_heads"}
WITH_HEAD_SIZE = {**GROUPED, "head_size": "head_dim"}
NORMS = (*norm(BLOCK + "input_layernorm"), *norm(BLOCK + "post_attention_layernorm"))
_NORMS_AFTER = (
    *norm(BLOCK + "post_attention_layernorm"),
    *norm(BLOCK + "post_feedforward_layernorm"),
)
WINDOWS = "layer_types max_window_layers sliding_window use_sliding_window"

LLAMA = decoder(
    "Llama",
    (*NORMS, *attention(), *gated(bias=Switch("mlp_bias", default=False))),
    title="Llama (1 to 3, SmolLM2, TinyLlama and more)",
    config_keys=WITH_HEAD_SIZE,
    needs={"pretraining_tp": 1},
)

# The same tensors as Llama, and no biases that its own class would load.
MISTRAL = decoder(
    "Mistral",
    (*NORMS, *attention(qkv=False, out=False), *gated()),
    config_keys=WITH_HEAD_SIZE,
    window="sliding_window",
    saved_as=("llama",),
)

QWEN2 = decoder(
    "Qwen2",
    (*NORMS, *attention(qkv=True, out=False), *gated()),
    title="Qwen2 (and 2.5)",
    config_keys=WITH_HEAD_SIZE,
    settings=WINDOWS,
)

QWEN3 = decoder(
    "Qwen3",
    (*NORMS, *attention(qk_norm="head"), *gated()),
    config_keys=WITH_HEAD_SIZE,
    head_size=128,
    qk_norm="head",
    settings=WINDOWS,
)

# Its norms have no parameters.
OLMO = decoder(
    "Olmo",
    (*attention(), *gated()),
    title="OLMo",
    epsilon=None,
    clip="clip_qkv",
    last_norm=(),
)

OLMO2 = decoder(
    "Olmo2",
    (*attention(qk_norm="all"), *_NORMS_AFTER, *gated()),
    title="OLMo-2",
    qk_norm="all",
    norm_after=BLOCK + "post_attention_layernorm",
)

OLMO3 = replace(
    OLMO2,
    model_type="olmo3",
    architecture="Olmo3ForCausalLM",
    title="OLMo-3",
    rotary=Rotary(base=500_000, full_every=4),
    settings=f"{OLMO2.settings} sliding_window",
)

PHI = decoder(
    "Phi",
    (
        *module(BLOCK + "input_layernorm", "d"),
        *attention(qkv=True, out=True, output="dense"),
        *module(BLOCK + "mlp.fc1", "ff", "d"),
        *module(BLOCK + "mlp.fc2", "d", "ff"),
        TensorRule("lm_head.bias", ("vocab",)),
    ),
    title="Phi (1, 1.5 and 2)",
    epsilon="layer_norm_eps",
    rotary=Rotary(share=0.5, partial=True),
    last_norm=module("model.final_layernorm", "d"),
    needs={"qk_layernorm": False},
    settings="embd_pdrop resid_pdrop",
)

STABLELM = decoder(
    "StableLm",
    (
        *module(BLOCK + "input_layernorm", "d"),
        *module(
            BLOCK + "post_attention_layernorm",
            "d",
            when=Switch("use_parallel_residual", default=False, value=False),
        ),
        *attention(qkv=Switch("use_qkv_bias", default=False), out=False),
        *gated(),
    ),
    title="StableLM",
    epsilon="layer_norm_eps",
    rotary=Rotary(share=0.25, partial=True),
    last_norm=module("model.norm", "d"),
    needs={"qk_layernorm": False},
    settings="hidden_dropout rope_pct",
)

GRANITE = decoder(
    "Granite",
    (*NORMS, *attention(), *gated(bias=Switch("mlp_bias", default=False))),
    scores=Factor("attention_multiplier", 1.0),
    logits=Factor("logits_scaling", 1.0, -1),
    settings="embedding_multiplier residual_multiplier",
)

SMOLLM3 = decoder(
    "SmolLM3",
    (*NORMS, *attention(), *gated(bias=Switch("mlp_bias", default=False))),
    rotary=Rotary(
        base=2_000_000,
        absent=Absent(
            "no_rope_layers", 1, 0, "no_rope_layer_interval", 4, "use_rope", lambda config: 1
        ),
    ),
    tied_head=True,
    pad=128_004,
    settings=WINDOWS,
)

SEED_OSS = decoder(
    "SeedOss",
    (
        *NORMS,
        *attention(
            qkv=Switch("attention_bias", default=True),
            out=Switch("attention_out_bias", default=False),
        ),
        *gated(bias=Switch("mlp_bias", default=False)),
    ),
    model_type="seed_oss",
    title="Seed-OSS",
    config_keys=WITH_HEAD_SIZE,
    head_size=128,
    settings="pretraining_tp residual_dropout",
)

# One key gives biases to attention and MLP alike.
_ALL_BIASED = Switch("use_bias", default=False)
ERNIE4_5 = decoder(
    "Ernie4_5",
    (*NORMS, *attention(qkv=_ALL_BIASED, out=_ALL_BIASED), *gated(bias=_ALL_BIASED)),
    title="ERNIE 4.5",
    config_keys=WITH_HEAD_SIZE,
    head_size=128,
    rotary=Rotary(base=500_000, adjacent=True),
    tied_head=True,
    settings="compression_ratio rope_ratio",
)

_BIASES = Switch("use_bias", default=True)
STARCODER2 = decoder(
    "Starcoder2",
    (
        *module(BLOCK + "input_layernorm", "d"),
        *module(BLOCK + "post_attention_layernorm", "d"),
        *attention(qkv=_BIASES, out=_BIASES),
        *module(BLOCK + "mlp.c_fc", "ff", "d", bias=_BIASES),
        *module(BLOCK + "mlp.c_proj", "d", "ff", bias=_BIASES),
    ),
    title="StarCoder2",
    epsilon="norm_epsilon",
    last_norm=module("model.norm", "d"),
    tied_head=True,
    settings="embedding_dropout mlp_type norm_type residual_dropout sliding_window",
)

# The MLP reads the same norm as attention.
COHERE = decoder(
    "Cohere",
    (*norm(BLOCK + "input_layernorm"), *attention(), *gated()),
    title="Cohere (Command R)",
    epsilon="layer_norm_eps",
    rotary=Rotary(base=500_000, adjacent=True),
    logits=Factor("logit_scale", 0.0625),
    tied_head=True,
    needs={"use_qk_norm": False},
)

COHERE2 = replace(
    COHERE,
    model_type="cohere2",
    architecture="Cohere2ForCausalLM",
    title="Cohere2 (Command R7B, Command A)",
    rotary=Rotary(
        adjacent=True,
        absent=Absent(
            "layer_types",
            SLIDING,
            FULL,
            "sliding_window_pattern",
            4,
            "sliding_window",
            lambda config: config.sliding_window,
            needs="sliding_window",
        ),
    ),
    needs={},
    settings=f"{COHERE.settings} layer_switch order_of_interleaved_layers position_embedding_type "
    "rotary_pct sliding_window use_embedding_sharing use_gated_activation use_parallel_block "
    "use_parallel_embedding",
)

# One norm before and one after each of attention and MLP.
GLM4 = decoder(
    "Glm4",
    (
        *NORMS,
        *norm(BLOCK + "post_self_attn_layernorm"),
        *norm(BLOCK + "post_mlp_layernorm"),
        *attention(qkv=Switch("attention_bias", default=True), out=False),
        *module(BLOCK + "mlp.gate_up_proj", "2ff", "d", bias=False),
        *module(BLOCK + "mlp.down_proj", "d", "ff", bias=False),
    ),
    title="GLM-4 (0414)",
    config_keys=WITH_HEAD_SIZE,
    head_size=128,
    norm_after=BLOCK + "post_self_attn_layernorm",
    rotary=Rotary(share=0.5, partial=True, adjacent=True),
    pad=151_329,
)

FAMILIES = (
    LLAMA,
    QWEN2,
    QWEN3,
    OLMO,
    OLMO2,
    OLMO3,
    PHI,
    STABLELM,
    MISTRAL,
    GRANITE,
    SMOLLM3,
    SEED_OSS,
    ERNIE4_5,
    STARCODER2,
    COHERE,
    COHERE2,
    GLM4,
)
