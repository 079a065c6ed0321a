"""What the decoders that follow Llama have in common: names, shapes and keys, as data.

Queries, keys and values are separate; keys and values may be shared by groups of query heads. The
MLP is gated, and positions are rotary.
"""

from __future__ import annotations

from typing import Any, Literal

from surgery.families.record import Family, Role, Switch, TensorRule
from surgery.families.rotary import Rotary

BLOCK = "model.layers.{block}."
ATTENTION = BLOCK + "self_attn."

KEYS = {
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d": "hidden_size",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
    "num_groups": "num_key_value_heads",
}
WITH_HEAD_SIZE = {**KEYS, "head_size": "head_dim"}
GATED = (
    TensorRule(BLOCK + "mlp.gate_proj.weight", ("ff", "d")),
    TensorRule(BLOCK + "mlp.up_proj.weight", ("ff", "d")),
    TensorRule(BLOCK + "mlp.down_proj.weight", ("d", "ff")),
)
BIASED = Switch("attention_bias", default=False)


def norm(name: str, *, bias: bool = False, when: Switch | None = None) -> tuple[TensorRule, ...]:
    """The tensors of a norm over the model's width."""
    weight = TensorRule(f"{name}.weight", ("d",), when=when)
    return (weight, TensorRule(f"{name}.bias", ("d",), when=when)) if bias else (weight,)


def attention(
    *,
    qkv: Switch | bool = BIASED,
    out: Switch | bool = BIASED,
    output: str = "o_proj",
    qk_norm: Literal["head", "all"] | None = None,
) -> tuple[TensorRule, ...]:
    """The tensors of attention.

    `qkv`, `out`: whether queries, keys and values, and the output, have biases: always, never, or
    as a key of config.json says. `output`: the name of the output projection.
    """
    rules: list[TensorRule] = []
    parts: tuple[tuple[str, str, tuple[str, str], Switch | bool], ...] = (
        ("q_proj", "query", ("q", "d"), qkv),
        ("k_proj", "key", ("kv", "d"), qkv),
        ("v_proj", "value", ("kv", "d"), qkv),
        (output, "output", ("d", "q"), out),
    )
    for name, part, shape, biased in parts:
        roles: Any = (f"{part}_weight", f"{part}_bias")
        rules.append(TensorRule(f"{ATTENTION}{name}.weight", shape, roles[0]))
        if biased:
            when = biased if isinstance(biased, Switch) else None
            rules.append(TensorRule(f"{ATTENTION}{name}.bias", shape[:1], roles[1], when=when))
    if qk_norm is not None:
        sizes = ("h", "h") if qk_norm == "head" else ("q", "kv")
        gains: tuple[tuple[str, Role], ...] = (("q_norm", "query_norm"), ("k_norm", "key_norm"))
        for (name, role), size in zip(gains, sizes, strict=True):
            rules.append(TensorRule(f"{ATTENTION}{name}.weight", (size,), role))
    return (
        *rules,
        TensorRule(ATTENTION + "rotary_emb.inv_freq", None, "attention_buffer", True),
        TensorRule(ATTENTION + "affine.weight", ("d", "d"), "affine_weight", True),
        TensorRule(ATTENTION + "affine.bias", ("d",), "affine_bias", True),
    )


def decoder(
    name: str,
    rules: tuple[TensorRule, ...],
    *,
    title: str | None = None,
    settings: str = "",
    rotary: Rotary | None = None,
    last_norm: tuple[TensorRule, ...] | None = None,
    **fields: Any,
) -> Family:
    """The record of a decoder of that name in the library: `rules` are those of a block."""
    return Family(
        **{
            "model_type": name.lower(),
            "architecture": f"{name}ForCausalLM",
            "title": title or name,
            "attention": BLOCK + "self_attn",
            "config_keys": KEYS,
            "epsilon": "rms_norm_eps",
            "norm_before": BLOCK + "input_layernorm",
            "rotary": rotary or Rotary(),
            "settings": f"attention_dropout hidden_act {settings}",
            "rules": (
                TensorRule("model.embed_tokens.weight", ("vocab", "d")),
                *rules,
                *(norm("model.norm") if last_norm is None else last_norm),
                TensorRule("model.rotary_emb.inv_freq", None, optional=True),
                TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
            ),
            **fields,
        }
    )
