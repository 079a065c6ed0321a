"""Decoders most of whose blocks have linear attention, which is recurrent and cannot be edited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.families.experts import WIDE, experts
from surgery.families.llama import BLOCK, NORMS, WITH_HEAD_SIZE, attention, decoder, gated
from surgery.families.record import TensorRule, module
from surgery.families.rotary import FULL, Rotary

_LINEAR = BLOCK + "linear_attn"


def _attends(config: Mapping[str, Any], block: int) -> bool:
    types = config.get("layer_types")
    if isinstance(types, list) and block < len(types):
        return bool(types[block] == FULL)
    every = config.get("full_attention_interval", 4)
    return type(every) is int and every > 0 and (block + 1) % every == 0


def _is_linear(config: Mapping[str, Any], block: int) -> bool:
    return not _attends(config, block)


def _linear(name: str, *shape: str) -> tuple[TensorRule, ...]:
    return module(f"{_LINEAR}.{name}", *shape, bias=False, blocks=_is_linear)


_MIXERS = (
    *_linear("in_proj_qkv", "lqkv", "d"),
    *_linear("in_proj_z", "lv", "d"),
    *_linear("in_proj_a", "lheads", "d"),
    *_linear("in_proj_b", "lheads", "d"),
    *_linear("conv1d", "lqkv", "1", "kernel"),
    *_linear("out_proj", "d", "lv"),
    TensorRule(f"{_LINEAR}.norm.weight", ("lh",), blocks=_is_linear, any_dtype=True),
    TensorRule(f"{_LINEAR}.A_log", ("lheads",), blocks=_is_linear, any_dtype=True),
    TensorRule(f"{_LINEAR}.dt_bias", ("lheads",), blocks=_is_linear),
)
_SIZES = {
    "lheads": "linear_num_value_heads",
    "lh": "linear_value_head_dim",
    "kheads": "linear_num_key_heads",
    "kh": "linear_key_head_dim",
    "kernel": "linear_conv_kernel_dim",
    "lv": lambda sizes: sizes["lheads"] * sizes["lh"],
    "lqkv": lambda sizes: sizes["lv"] + 2 * sizes["kheads"] * sizes["kh"],
    "1": lambda sizes: 1,
}
_QWEN: dict[str, Any] = {
    "head_size": 256,
    "gain": 1.0,
    "qk_norm": "head",
    "rotary": Rotary(share=0.25, partial=True),
    "attends": _attends,
    "instead": "has linear attention",
    "gated": True,
    "others": ("model.visual.", "mtp."),
    "compact": False,
    "needs": {"attn_output_gate": True},
}
_SETTINGS = """full_attention_interval layer_types mamba_ssm_dtype mlp_only_layers
    mtp_num_hidden_layers mtp_use_dedicated_embeddings"""
_ATTENTION = (*attention(qk_norm="head", query="2q", blocks=_attends), *_MIXERS)

QWEN3_5 = decoder(
    "Qwen3_5",
    (*NORMS, *_ATTENTION, *gated()),
    model_type="qwen3_5_text",
    title="Qwen3.5",
    config_keys=WITH_HEAD_SIZE,
    sizes=_SIZES,
    settings=_SETTINGS,
    **_QWEN,
)

QWEN3_5_MOE = decoder(
    "Qwen3_5Moe",
    (
        *NORMS,
        *_ATTENTION,
        *experts(),
        *gated("mlp.shared_expert", "sff"),
        *module(BLOCK + "mlp.shared_expert_gate", "1", "d", bias=False),
    ),
    model_type="qwen3_5_moe_text",
    title="Qwen3.5 MoE",
    config_keys={**WITH_HEAD_SIZE, "intermediate": "moe_intermediate_size"},
    sizes={
        "experts": "num_experts",
        "sff": "shared_expert_intermediate_size",
        **WIDE,
        **_SIZES,
    },
    settings=f"""{_SETTINGS} num_experts_per_tok output_router_logits router_aux_loss_coef
        norm_topk_prob intermediate_size""",
    **_QWEN,
)

FAMILIES = (QWEN3_5, QWEN3_5_MOE)
