"""GPT-NeoX (every Pythia size and GPT-NeoX-20B) and GPT-Neo (125M, 1.3B and 2.7B)."""

from __future__ import annotations

from surgery.families.record import KEYS, Family, Switch, TensorRule, beside, module
from surgery.families.rotary import Rotary

# Names as stored by the Hub repositories. `embed_out.weight` is `lm_head.weight` in checkpoints
# that the newest transformers saved. `attention_bias: false` drops the four attention biases.
_BIASED = Switch("attention_bias", default=True)
_NEOX_B = "gpt_neox.layers.{block}."
_NEOX_A = _NEOX_B + "attention"

GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    title="GPT-NeoX (Pythia)",
    attention=_NEOX_A,
    epsilon="layer_norm_eps",
    rotary=Rotary(
        share=0.25,
        share_key="rotary_pct",
        base_key="rotary_emb_base",
        partial=True,
        scalings=(),
    ),
    fused=True,
    settings="""
        attention_dropout attention_probs_dropout_prob hidden_act hidden_dropout
        hidden_dropout_prob original_max_position_embeddings rotary_emb_base rotary_pct
        use_parallel_residual
        """,
    rules=(
        *module("gpt_neox.embed_in", "vocab", "d", bias=False),
        *module(_NEOX_B + "input_layernorm", "d"),
        *module(_NEOX_B + "post_attention_layernorm", "d"),
        *module(_NEOX_A + ".query_key_value", "3d", "d", role="query_key_value", bias=_BIASED),
        *module(_NEOX_A + ".dense", "d", "d", role="output", bias=_BIASED),
        *beside(_NEOX_A, "bias", "masked_bias", "rotary_emb.inv_freq"),
        *module(_NEOX_B + "mlp.dense_h_to_4h", "ff", "d"),
        *module(_NEOX_B + "mlp.dense_4h_to_h", "d", "ff"),
        *module("gpt_neox.final_layer_norm", "d"),
        TensorRule("gpt_neox.rotary_emb.inv_freq", None, optional=True),
        TensorRule("embed_out.weight", ("vocab", "d"), optional=True),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)

# Attention is global and local in turn. Queries, keys and values are separate and have no bias;
# the output has one. Positions are learned and absolute. The head is tied to the embedding, so
# `lm_head.weight` is usually not stored.
_NEO_B = "transformer.h.{block}."
_NEO_A = _NEO_B + "attn.attention"

GPT_NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    title="GPT-Neo",
    attention=_NEO_A,
    epsilon="layer_norm_epsilon",
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
        *module(_NEO_B + "ln_1", "d"),
        *module(_NEO_A + ".q_proj", "d", "d", role="query", bias=False),
        *module(_NEO_A + ".k_proj", "d", "d", role="key", bias=False),
        *module(_NEO_A + ".v_proj", "d", "d", role="value", bias=False),
        *module(_NEO_A + ".out_proj", "d", "d", role="output"),
        *beside(_NEO_A, "bias", "masked_bias"),
        *module(_NEO_B + "ln_2", "d"),
        *module(_NEO_B + "mlp.c_fc", "ff", "d"),
        *module(_NEO_B + "mlp.c_proj", "d", "ff"),
        *module("transformer.ln_f", "d"),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)

FAMILIES = (GPT_NEOX, GPT_NEO)
