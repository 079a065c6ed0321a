"""GPT-Neo: 125M, 1.3B and 2.7B, with alternating global and local attention.

Queries, keys and values are separate and have no bias; the output has one. Positions are learned
and absolute. The head is tied to the embedding, so `lm_head.weight` is usually not stored.
"""

from __future__ import annotations

from surgery.families.record import KEYS, Family, TensorRule, beside, module

_B = "transformer.h.{block}."
_A = _B + "attn.attention"

GPT_NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    title="GPT-Neo",
    attention=_A,
    epsilon="layer_norm_epsilon",
    norm_before=_B + "ln_1",
    config_keys={**KEYS, "num_blocks": "num_layers", "num_heads": "num_heads"},
    tied_head=True,
    layer_index="layer_id",
    settings="""
        activation_function attention_dropout attention_layers attention_types embed_dropout
        resid_dropout summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj window_size
        """,
    aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    rules=(
        *module("transformer.wte", "vocab", "d", bias=False),
        *module("transformer.wpe", "positions", "d", bias=False),
        *module(_B + "ln_1", "d"),
        *module(_A + ".q_proj", "d", "d", role="query", bias=False),
        *module(_A + ".k_proj", "d", "d", role="key", bias=False),
        *module(_A + ".v_proj", "d", "d", role="value", bias=False),
        *module(_A + ".out_proj", "d", "d", role="output"),
        *beside(_A, "bias", "masked_bias"),
        *module(_B + "ln_2", "d"),
        *module(_B + "mlp.c_fc", "ff", "d"),
        *module(_B + "mlp.c_proj", "d", "ff"),
        *module("transformer.ln_f", "d"),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)
