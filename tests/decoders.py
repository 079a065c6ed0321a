"""Tiny models of every family that follows Llama, as the library saves them.

Configurations have the keys of the Hub repositories; head sizes differ from width / heads where the
family admits it, keys and values are grouped, and weights are large enough that logits are far from
uniform.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from surgery.families import FAMILIES, Family

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
BY_TYPE: dict[str, Family] = {family.model_type: family for family in FAMILIES}


def config_of(kind: str, **overrides: Any) -> dict[str, Any]:
    """config.json of a tiny model of that type."""
    architecture = BY_TYPE[kind].architecture
    own = {"model_type": kind, "architectures": [architecture], "torch_dtype": "float32"}
    return {**_COMMON, **CONFIGS[kind], **own, **overrides}


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
