"""Llama and the decoders that differ from it in a few ways each.

Queries, keys and values are separate; keys and values may be shared by groups of query heads. The
MLP is gated, and positions are rotary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from surgery.families.record import KEYS, Family, Switch, TensorRule, beside, module
from surgery.families.rotary import Rotary

BLOCK = "model.layers.{block}."
ATTENTION = BLOCK + "self_attn"
BIASED = Switch("attention_bias", default=False)


def attention(
    *,
    qkv: Switch | bool = BIASED,
    out: Switch | bool = BIASED,
    output: str = "o_proj",
    qk_norm: Literal["head", "all"] | None = None,
) -> tuple[TensorRule, ...]:
    """The tensors of attention.

    `qkv`, `out`: whether queries, keys and values, and the output, have biases, as for `module`.
    `output`: the name of the output projection.
    """
    sizes = ("h", "h") if qk_norm == "head" else ("q", "kv")
    gains = (
        TensorRule(f"{ATTENTION}.q_norm.weight", sizes[:1], "query_norm"),
        TensorRule(f"{ATTENTION}.k_norm.weight", sizes[1:], "key_norm"),
    )
    return (
        *module(f"{ATTENTION}.q_proj", "q", "d", role="query", bias=qkv),
        *module(f"{ATTENTION}.k_proj", "kv", "d", role="key", bias=qkv),
        *module(f"{ATTENTION}.v_proj", "kv", "d", role="value", bias=qkv),
        *module(f"{ATTENTION}.{output}", "d", "q", role="output", bias=out),
        *(gains if qk_norm else ()),
        *beside(ATTENTION, "rotary_emb.inv_freq"),
    )


def gated(*, bias: Switch | bool = False) -> tuple[TensorRule, ...]:
    """The tensors of the MLP."""
    return (
        *module(BLOCK + "mlp.gate_proj", "ff", "d", bias=bias),
        *module(BLOCK + "mlp.up_proj", "ff", "d", bias=bias),
        *module(BLOCK + "mlp.down_proj", "d", "ff", bias=bias),
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
            "config_keys": _GROUPED,
            "epsilon": "rms_norm_eps",
            "norm_before": BLOCK + "input_layernorm",
            "rotary": Rotary(),
            "settings": f"attention_dropout hidden_act {settings}",
            "rules": (
                *module("model.embed_tokens", "vocab", "d", bias=False),
                *rules,
                *(_norm("model.norm") if last_norm is None else last_norm),
                TensorRule("model.rotary_emb.inv_freq", None, optional=True),
                TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
            ),
            **fields,
        }
    )


def _norm(name: str) -> tuple[TensorRule, ...]:
    return module(name, "d", bias=False)


_GROUPED = {**KEYS, "num_groups": "num_key_value_heads"}
_WITH_HEAD_SIZE = {**_GROUPED, "head_size": "head_dim"}
_NORMS = (*_norm(BLOCK + "input_layernorm"), *_norm(BLOCK + "post_attention_layernorm"))
_NORMS_AFTER = (
    *_norm(BLOCK + "post_attention_layernorm"),
    *_norm(BLOCK + "post_feedforward_layernorm"),
)
_WINDOWS = "layer_types max_window_layers sliding_window use_sliding_window"

LLAMA = decoder(
    "Llama",
    (*_NORMS, *attention(), *gated(bias=Switch("mlp_bias", default=False))),
    title="Llama (1 to 3, SmolLM2, TinyLlama and more)",
    config_keys=_WITH_HEAD_SIZE,
    needs={"pretraining_tp": 1},
)

# The same tensors as Llama, and no biases that its own class would load.
MISTRAL = decoder(
    "Mistral",
    (*_NORMS, *attention(qkv=False, out=False), *gated()),
    config_keys=_WITH_HEAD_SIZE,
    window="sliding_window",
    saved_as=("llama",),
)

QWEN2 = decoder(
    "Qwen2",
    (*_NORMS, *attention(qkv=True, out=False), *gated()),
    title="Qwen2 (and 2.5)",
    config_keys=_WITH_HEAD_SIZE,
    settings=_WINDOWS,
)

QWEN3 = decoder(
    "Qwen3",
    (*_NORMS, *attention(qk_norm="head"), *gated()),
    config_keys=_WITH_HEAD_SIZE,
    head_size=128,
    qk_norm="head",
    settings=_WINDOWS,
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
    norm_before=None,
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

FAMILIES = (LLAMA, QWEN2, QWEN3, OLMO, OLMO2, OLMO3, PHI, STABLELM, MISTRAL)
