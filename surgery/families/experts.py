"""Decoders whose MLPs are experts, of which each token goes through a few.

Newer versions of the library load the experts of a block as one tensor, and store them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import CheckpointError
from surgery.families.llama import BLOCK, NORMS, WINDOWS, WITH_HEAD_SIZE, attention, decoder, gated
from surgery.families.record import SomeBlocks, Switch, TensorRule, module, read_whole
from surgery.families.rotary import Rotary

_EXPERTS = BLOCK + "mlp.experts."
WIDE = {"eff": "moe_intermediate_size", "2eff": lambda sizes: 2 * sizes["eff"]}


def experts(
    blocks: SomeBlocks | None = None, *, free_router: bool = False
) -> tuple[TensorRule, ...]:
    """The tensors of experts and of the router, in those blocks.

    `free_router`: whether the router may have a dtype of its own.
    """

    def rule(name: str, *shape: str, other: str) -> TensorRule:
        return TensorRule(_EXPERTS + name, shape, blocks=blocks, instead_of=_EXPERTS + other)

    return (
        rule("{expert}.gate_proj.weight", "eff", "d", other="gate_up_proj"),
        rule("{expert}.up_proj.weight", "eff", "d", other="gate_up_proj"),
        rule("{expert}.down_proj.weight", "d", "eff", other="down_proj"),
        rule("gate_up_proj", "experts", "2eff", "d", other="0.gate_proj.weight"),
        rule("down_proj", "experts", "d", "eff", other="0.down_proj.weight"),
        TensorRule(
            BLOCK + "mlp.gate.weight", ("experts", "d"), blocks=blocks, any_dtype=free_router
        ),
    )


def _takes_turns(config: Mapping[str, Any], block: int) -> bool:
    """Whether a Qwen block has experts."""
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        what = "'mlp_only_layers' is not a list of blocks"
        raise CheckpointError(what, where="config.json", got=dense)
    step = read_whole(config, "decoder_sparse_step", 1) or 1
    return block not in dense and (block + 1) % step == 0


def _follows_first(config: Mapping[str, Any], block: int) -> bool:
    """Whether a block of GLM has experts."""
    return block >= read_whole(config, "first_k_dense_replace", 1)


def other(blocks: SomeBlocks) -> SomeBlocks:
    """All blocks but those."""
    return lambda config, block: not blocks(config, block)


QWEN3_MOE = decoder(
    "Qwen3Moe",
    (
        *NORMS,
        *attention(qk_norm="head"),
        *gated(blocks=other(_takes_turns)),
        *experts(_takes_turns),
    ),
    model_type="qwen3_moe",
    title="Qwen3 MoE",
    config_keys=WITH_HEAD_SIZE,
    sizes={"experts": "num_local_experts", **WIDE},
    aliases={"num_experts": "num_local_experts"},
    qk_norm="head",
    settings=f"""{WINDOWS} decoder_sparse_step mlp_only_layers norm_topk_prob num_experts_per_tok
        output_router_logits router_aux_loss_coef""",
)

SHARED = {
    "shared": "n_shared_experts",
    "sff": lambda sizes: sizes["shared"] * sizes["eff"],
}

GLM4_MOE = decoder(
    "Glm4Moe",
    (
        *NORMS,
        *attention(out=False, qk_norm="head", norm_when=Switch("use_qk_norm", default=False)),
        *gated(blocks=other(_follows_first)),
        *experts(_follows_first, free_router=True),  # the library keeps it in float32
        *gated("mlp.shared_experts", "sff", blocks=_follows_first),
        TensorRule(BLOCK + "mlp.gate.e_score_correction_bias", None, blocks=_follows_first),
    ),
    model_type="glm4_moe",
    title="GLM-4.5 and later (MoE)",
    config_keys=WITH_HEAD_SIZE,
    sizes={"experts": "n_routed_experts", **WIDE, **SHARED},
    aliases={
        "num_local_experts": "n_routed_experts",
        "num_mtp_layers": "num_nextn_predict_layers",
    },
    qk_norm="head",
    rotary=Rotary(share=0.5, partial=True),
    beyond="num_nextn_predict_layers",
    settings="""first_k_dense_replace n_group norm_topk_prob num_experts_per_tok
        num_nextn_predict_layers output_router_logits routed_scaling_factor router_aux_loss_coef
        topk_group""",
)

_BIASED = Switch("attention_bias", default=True)

# Attention has sinks. The experts of a block are one tensor in every version.
GPT_OSS = decoder(
    "GptOss",
    (
        *NORMS,
        *attention(qkv=_BIASED, out=_BIASED),
        TensorRule(BLOCK + "self_attn.sinks", ("heads",), "sinks"),
        *module(BLOCK + "mlp.router", "experts", "d"),
        TensorRule(_EXPERTS + "gate_up_proj", ("experts", "d", "2ff")),
        TensorRule(_EXPERTS + "gate_up_proj_bias", ("experts", "2ff")),
        TensorRule(_EXPERTS + "down_proj", ("experts", "ff", "d")),
        TensorRule(_EXPERTS + "down_proj_bias", ("experts", "d")),
    ),
    model_type="gpt_oss",
    title="gpt-oss",
    config_keys=WITH_HEAD_SIZE,
    head_size=64,
    sizes={"experts": "num_local_experts"},
    aliases={"num_experts": "num_local_experts"},
    rotary=Rotary(
        base=150_000,
        scaled={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
    settings="""experts_per_token initial_context_length layer_types num_experts_per_tok
        output_router_logits router_aux_loss_coef sliding_window swiglu_alpha swiglu_limit""",
)

FAMILIES = (QWEN3_MOE, GLM4_MOE, GPT_OSS)
