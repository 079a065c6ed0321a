"""Tiny models of every family that follows Llama, as the library saves them.

Configurations have the keys of the Hub repositories; head sizes differ from width / heads where the
family admits it, keys and values are grouped, and weights are large enough that logits are far from
uniform.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from surgery.families import FAMILIES

BLOCKS, HEADS, GROUPS, SIZE, D = 3, 4, 2, 64, 128
_COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": D,
    "initializer_range": 0.02,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": HEADS,
    "num_hidden_layers": BLOCKS,
    "num_key_value_heads": GROUPS,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 128,
}
_WIDE = {"hidden_size": HEADS * SIZE}  # of families whose head size is width / heads
_WINDOWS = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-5, "head_dim": SIZE, "rope_theta": 500_000.0},
    "qwen2": {"rms_norm_eps": 1e-6, "rope_theta": 1e6, **_WINDOWS, **_WIDE},
    "qwen3": {"rms_norm_eps": 1e-6, "head_dim": SIZE, "rope_theta": 1e6},
    "olmo": {"rope_theta": 10_000.0, "clip_qkv": None, **_WIDE},
    "olmo2": {"rms_norm_eps": 1e-6, "rope_theta": 500_000.0, **_WIDE},
    "olmo3": {"rms_norm_eps": 1e-6, "rope_theta": 500_000.0, "sliding_window": 8, **_WIDE},
    "phi": {
        "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.5, "hidden_act": "gelu_new", **_WIDE
    },
    "stablelm": {
        "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": False, **_WIDE
    },
    "mistral": {"rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "sliding_window": None, **_WIDE},
}  # fmt: skip
_TURNS = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
_TURNS["layer_types"] = _TURNS["layer_types"][:BLOCKS]
_EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2, "head_dim": SIZE}
MORE: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 4, "mlp_only_layers": [2],
        "norm_topk_prob": True, "decoder_sparse_step": 1, **_EXPERTS,
    },
    "qwen2_moe": {
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 4,
        "shared_expert_intermediate_size": 32, "decoder_sparse_step": 1, "mlp_only_layers": [],
        **{key: value for key, value in _EXPERTS.items() if key != "head_dim"}, **_WIDE,
    },
    "mixtral": {
        "rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None, "num_local_experts": 4,
        "num_experts_per_tok": 2, "head_dim": SIZE,
    },
    "olmoe": {
        "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "num_experts": 4, "num_experts_per_tok": 2,
        "clip_qkv": None, **_WIDE,
    },
    "phi3": {"rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "pad_token_id": 1, **_WIDE},
    "gemma3_text": {
        "rms_norm_eps": 1e-6, "head_dim": SIZE, "query_pre_attn_scalar": SIZE,
        "hidden_activation": "gelu_pytorch_tanh", "sliding_window_pattern": 2,
        "sliding_window": 8, "rope_theta": 1e6, "rope_local_base_freq": 10_000.0,
    },
    "gemma2": {
        "rms_norm_eps": 1e-6, "head_dim": SIZE, "query_pre_attn_scalar": SIZE, "sliding_window": 8,
        "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "smollm3": {
        "rms_norm_eps": 1e-6, "rope_theta": 5e6, "no_rope_layers": [1, 1, 0],
        "no_rope_layer_interval": 3, "pad_token_id": 1, **_WIDE,
    },
    "granite": {
        "rms_norm_eps": 1e-5, "attention_multiplier": 0.015625, "logits_scaling": 4.0,
        "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "rope_theta": 10_000.0, **_WIDE,
    },
    "gemma": {"rms_norm_eps": 1e-6, "head_dim": SIZE, "hidden_act": "gelu_pytorch_tanh"},
    "starcoder2": {
        "norm_epsilon": 1e-5, "use_bias": True, "rope_theta": 1e5, "sliding_window": 8,
        "hidden_act": "gelu_pytorch_tanh", **_WIDE,
    },
    "cohere": {
        "layer_norm_eps": 1e-5, "logit_scale": 0.25, "rope_theta": 75_000.0, "use_qk_norm": False,
        **_WIDE,
    },
    "gpt_oss": {
        "rms_norm_eps": 1e-5, "head_dim": SIZE, "num_local_experts": 4, "num_experts_per_tok": 2,
        "rope_theta": 150_000, **_TURNS, "rope_scaling": {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": False, "original_max_position_embeddings": 4096,
        },
    },
}  # fmt: skip
FEW = ("llama", "qwen3", "olmo2", "phi", "mistral")
"""Those that differ most: norms of queries and keys, norms after attention, parallel blocks with
biases, and a class without them."""
MIXED = ("mistral", "mixtral", "phi3", "gemma2")
"""Those in whose own architecture no token can attend to itself alone."""


def split_values(made: torch.Tensor, length: int) -> torch.Tensor:
    """What the projection of values makes → values [B, length, G, h] of the last tokens."""
    return made.reshape(len(made), -1, made.shape[-1] // SIZE, SIZE)[:, -length:]


def few_first(kinds: Iterable[str]) -> list[Any]:
    """Parameters of a test, slow but for `FEW`."""
    return [pytest.param(kind, marks=() if kind in FEW else pytest.mark.slow) for kind in kinds]


def config_of(kind: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a tiny model of that type."""
    architecture = FAMILIES[kind].architecture
    own = {"model_type": kind, "architectures": [architecture], "torch_dtype": "float32"}
    return deepcopy({**_COMMON, **(CONFIGS | MORE)[kind], **own, **overrides})  # others change it


def write_decoder(folder: Path, kind: str, *, seed: int = 0, **overrides: Any) -> Path:
    """A tiny model of that type, saved by the library under its own configuration."""
    config = config_of(kind, **overrides)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.CONFIG_MAPPING[kind].from_dict(config)
    ).to(getattr(torch, config["torch_dtype"]))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            random = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.1 * random)
            else:
                parameter.copy_(random * (0.5 if "embed" in name else 0.1))
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in written.items() if key.startswith("transformers")}
    (folder / "config.json").write_text(json.dumps({**config, **kept}, indent=2))
    return folder
