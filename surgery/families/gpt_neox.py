"""GPT-NeoX: every Pythia size and GPT-NeoX-20B.

Names as stored by the Hub repositories. `embed_out.weight` is `lm_head.weight` in checkpoints that
the newest transformers saved. `attention_bias: false` drops the four attention biases.
"""

from __future__ import annotations

from surgery.families.record import Family, Switch, TensorRule
from surgery.families.rotary import Rotary

_BIASED = Switch("attention_bias", default=True)
_B = "gpt_neox.layers.{block}."

GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    title="GPT-NeoX (Pythia)",
    attention=_B + "attention",
    epsilon="layer_norm_eps",
    norm_before=_B + "input_layernorm",
    config_keys={
        "num_blocks": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "d": "hidden_size",
        "intermediate": "intermediate_size",
        "vocabulary": "vocab_size",
        "max_positions": "max_position_embeddings",
    },
    rotary=Rotary(share=0.25, partial=True, scalings=()),
    fused=True,
    settings="""
        attention_dropout attention_probs_dropout_prob hidden_act hidden_dropout
        hidden_dropout_prob original_max_position_embeddings rotary_emb_base rotary_pct
        use_parallel_residual
        """,
    rules=(
        TensorRule("gpt_neox.embed_in.weight", ("vocab", "d")),
        TensorRule(_B + "input_layernorm.weight", ("d",)),
        TensorRule(_B + "input_layernorm.bias", ("d",)),
        TensorRule(_B + "post_attention_layernorm.weight", ("d",)),
        TensorRule(_B + "post_attention_layernorm.bias", ("d",)),
        TensorRule(_B + "attention.query_key_value.weight", ("3d", "d"), "query_key_value_weight"),
        TensorRule(
            _B + "attention.query_key_value.bias", ("3d",), "query_key_value_bias", when=_BIASED
        ),
        TensorRule(_B + "attention.dense.weight", ("d", "d"), "output_weight"),
        TensorRule(_B + "attention.dense.bias", ("d",), "output_bias", when=_BIASED),
        TensorRule(_B + "attention.bias", None, "attention_buffer", True),
        TensorRule(_B + "attention.masked_bias", None, "attention_buffer", True),
        TensorRule(_B + "attention.rotary_emb.inv_freq", None, "attention_buffer", True),
        TensorRule(_B + "attention.affine.weight", ("d", "d"), "affine_weight", True),
        TensorRule(_B + "attention.affine.bias", ("d",), "affine_bias", True),
        TensorRule(_B + "mlp.dense_h_to_4h.weight", ("ff", "d")),
        TensorRule(_B + "mlp.dense_h_to_4h.bias", ("ff",)),
        TensorRule(_B + "mlp.dense_4h_to_h.weight", ("d", "ff")),
        TensorRule(_B + "mlp.dense_4h_to_h.bias", ("d",)),
        TensorRule("gpt_neox.final_layer_norm.weight", ("d",)),
        TensorRule("gpt_neox.final_layer_norm.bias", ("d",)),
        TensorRule("gpt_neox.rotary_emb.inv_freq", None, optional=True),
        TensorRule("embed_out.weight", ("vocab", "d"), optional=True),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)
