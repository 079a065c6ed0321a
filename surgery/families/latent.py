"""Decoders whose queries, keys, and values come from latents (MLA): DeepSeek-V3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.families.experts import SHARED, WIDE, experts, other
from surgery.families.llama import ATTENTION, BIASED, BLOCK, NORMS, decoder, gated
from surgery.families.record import KEYS, TensorRule, beside, module, read_whole
from surgery.families.rotary import Rotary

_SIZES = {
    "heads": "num_attention_heads",
    "plain": "qk_nope_head_dim",
    "rotated": "qk_rope_head_dim",
    "value": "v_head_dim",
    "ql": "q_lora_rank",
    "kvl": "kv_lora_rank",
    "ql_up": lambda sizes: sizes["heads"] * (sizes["plain"] + sizes["rotated"]),
    "kvl_down": lambda sizes: sizes["kvl"] + sizes["rotated"],
    "kvl_up": lambda sizes: sizes["heads"] * (sizes["plain"] + sizes["value"]),
}
_LATENT = (
    *module(f"{ATTENTION}.q_a_proj", "ql", "d", role="query_latent", bias=BIASED),
    TensorRule(f"{ATTENTION}.q_a_layernorm.weight", ("ql",), "query_latent_norm"),
    *module(f"{ATTENTION}.q_b_proj", "ql_up", "ql", role="query", bias=False),
    *module(
        f"{ATTENTION}.kv_a_proj_with_mqa", "kvl_down", "d", role="key_value_latent", bias=BIASED
    ),
    TensorRule(f"{ATTENTION}.kv_a_layernorm.weight", ("kvl",), "key_value_latent_norm"),
    *module(f"{ATTENTION}.kv_b_proj", "kvl_up", "kvl", role="value", bias=False),
    *module(f"{ATTENTION}.o_proj", "d", "q", role="output", bias=BIASED),
    *beside(ATTENTION, "rotary_emb.inv_freq"),
)


def _has_experts(config: Mapping[str, Any], block: int) -> bool:
    return block >= read_whole(config, "first_k_dense_replace", 3)


DEEPSEEK_V3 = decoder(
    "DeepseekV3",
    (
        *NORMS,
        *_LATENT,
        *gated(blocks=other(_has_experts)),
        *experts(_has_experts, free_router=True),
        *gated("mlp.shared_experts", "sff", blocks=_has_experts),
        TensorRule(f"{BLOCK}mlp.gate.e_score_correction_bias", None, blocks=_has_experts),
    ),
    model_type="deepseek_v3",
    title="DeepSeek-V3",
    config_keys={**KEYS, "head_size": "v_head_dim"},
    sizes={"experts": "n_routed_experts", **WIDE, **SHARED, **_SIZES},
    lacking={
        "q_lora_rank": "its queries are made without a bias, so no constant can enter them; its "
        "own class could hold `zero`, `mean`"
    },
    aliases={
        "num_local_experts": "n_routed_experts",
        "num_mtp_layers": "num_nextn_predict_layers",
    },
    rotary=Rotary(adjacent=True, scalings=("yarn",), scales_scores=True),
    beyond="num_nextn_predict_layers",
    needs={"rope_interleave": True, "pretraining_tp": 1},
    compact=False,
    settings="""ep_size first_k_dense_replace head_dim moe_layer_freq n_group norm_topk_prob
        num_experts_per_tok num_key_value_heads num_nextn_predict_layers output_router_logits
        qk_head_dim routed_scaling_factor router_aux_loss_coef scoring_func seq_aux topk_group
        topk_method aux_loss_alpha""",
)

FAMILIES = (DEEPSEEK_V3,)
