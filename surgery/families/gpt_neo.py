"""GPT-Neo: 125M, 1.3B and 2.7B, with alternating global and local attention.

Queries, keys and values are separate and have no bias; the output has one. Positions are learned
and absolute. The head is tied to the embedding, so `lm_head.weight` is usually not stored.
"""

from __future__ import annotations

from surgery.families.record import Family, TensorRule

_B = "transformer.h.{block}."
_A = _B + "attn.attention."

GPT_NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    title="GPT-Neo",
    attention=_B + "attn.attention",
    epsilon="layer_norm_epsilon",
    norm_before=_B + "ln_1",
    config_keys={
        "num_blocks": "num_layers",
        "num_heads": "num_heads",
        "d": "hidden_size",
        "intermediate": "intermediate_size",
        "vocabulary": "vocab_size",
        "max_positions": "max_position_embeddings",
    },
    tied_head=True,
    layer_index="layer_id",
    settings="""
        activation_function attention_dropout attention_layers attention_types embed_dropout
        resid_dropout summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj window_size
        """,
    aliases={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
    rules=(
        TensorRule("transformer.wte.weight", ("vocab", "d")),
        TensorRule("transformer.wpe.weight", ("positions", "d")),
        TensorRule(_B + "ln_1.weight", ("d",)),
        TensorRule(_B + "ln_1.bias", ("d",)),
        TensorRule(_A + "q_proj.weight", ("d", "d"), "query_weight"),
        TensorRule(_A + "k_proj.weight", ("d", "d"), "key_weight"),
        TensorRule(_A + "v_proj.weight", ("d", "d"), "value_weight"),
        TensorRule(_A + "out_proj.weight", ("d", "d"), "output_weight"),
        TensorRule(_A + "out_proj.bias", ("d",), "output_bias"),
        TensorRule(_A + "bias", None, "attention_buffer", True),
        TensorRule(_A + "masked_bias", None, "attention_buffer", True),
        TensorRule(_A + "affine.weight", ("d", "d"), "affine_weight", True),
        TensorRule(_A + "affine.bias", ("d",), "affine_bias", True),
        TensorRule(_B + "ln_2.weight", ("d",)),
        TensorRule(_B + "ln_2.bias", ("d",)),
        TensorRule(_B + "mlp.c_fc.weight", ("ff", "d")),
        TensorRule(_B + "mlp.c_fc.bias", ("ff",)),
        TensorRule(_B + "mlp.c_proj.weight", ("d", "ff")),
        TensorRule(_B + "mlp.c_proj.bias", ("d",)),
        TensorRule("transformer.ln_f.weight", ("d",)),
        TensorRule("transformer.ln_f.bias", ("d",)),
        TensorRule("lm_head.weight", ("vocab", "d"), optional=True),
    ),
)
