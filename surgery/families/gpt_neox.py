"""GPT-NeoX: every Pythia size and GPT-NeoX-20B.

Names as stored by the Hub repositories. `embed_out.weight` is `lm_head.weight` in checkpoints that
the newest transformers saved. `attention_bias: false` drops the four attention biases.
"""

from __future__ import annotations

from surgery.families.record import Family, Switch, TensorRule, beside, module
from surgery.families.rotary import Rotary

_BIASED = Switch("attention_bias", default=True)
_B = "gpt_neox.layers.{block}."
_A = _B + "attention"

GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    title="GPT-NeoX (Pythia)",
    attention=_A,
    epsilon="layer_norm_eps",
    norm_before=_B + "input_layernorm",
    rotary=Rotary(share=0.25, partial=True, scalings=()),
    fused=True,
    settings="""
        attention_dropout attention_probs_dropout_prob hidden_act hidden_dropout
        hidden_dropout_prob original_max_position_embeddings rotary_emb_base rotary_pct
        use_parallel_residual
        """,
    rules=(
        *module("gpt_neox.embed_in", "vocab", "d", bias=False),
        *module(_B + "input_layernorm", "d"),
        *module(_B + "post_attention_layernorm", "d"),
        *module(_A + ".query_key_value", "3d", "d", role="query_key_value", bias=_BIASED),
        *module(_A + ".dense", "d", "d", role="output", bias=_BIASED),
        *beside(_A, "bias", "masked_bias", "rotary_emb.inv_freq"),
        *module(_B + "mlp.dense_h_to_4h", "ff", "d"),
        *module(_B + "mlp.dense_4h_to_h", "d", "ff"),
        *module("gpt_neox.final_layer_norm", "d"),
        TensorRule("gpt_neox.rotary_emb.inv_freq", None, optional=True),
        TensorRule("embed_out.weight", ("vocab", "d"), optional=True),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)
