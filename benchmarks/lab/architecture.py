"""Configurations of the lab models, and how a trained one is stored: as the Hub repositories are.

Everything but sizes is as in EleutherAI/pythia-* and EleutherAI/gpt-neo-125m. Contexts are 256
tokens, so that the stored mask buffers stay small; GPT-Neo's local window is 32, an eighth of
the context, as in the real ones.
"""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.lab.vocabulary import SIZE

CONTEXT = 256

_NEO_LAYERS = 6

CONFIGS: dict[str, dict[str, Any]] = {
    "pythia": {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 160,
        "initializer_range": 0.02,
        "intermediate_size": 640,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neox",
        "num_attention_heads": 5,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": transformers.__version__,
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": -(-SIZE // 64) * 64,  # padded, as Pythia's
    },
    "gpt-neo": {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * (_NEO_LAYERS // 2),
        "attention_types": [[["global", "local"], _NEO_LAYERS // 2]],
        "bos_token_id": 0,
        "embed_dropout": 0,
        "eos_token_id": 0,
        "gradient_checkpointing": False,
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neo",
        "num_heads": 4,
        "num_layers": _NEO_LAYERS,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float32",
        "transformers_version": transformers.__version__,
        "use_cache": True,
        "vocab_size": SIZE,
        "window_size": CONTEXT // 8,
    },
}

CONFIGS["deep"] = CONFIGS["pythia"] | {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_attention_heads": 6,
    "num_hidden_layers": 24,
}
"""As deep as pythia-410m to 1.4b, and small enough for two cores. It is not shipped."""


def make_model(name: str, seed: int) -> PreTrainedModel:
    """An untrained lab model in float32, its weights drawn with `seed`."""
    torch.manual_seed(seed)
    settings = dict(CONFIGS[name])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    return model


def publish(model: PreTrainedModel, name: str, folder: Path) -> None:
    """Write weights and configuration; the tokenizer's files are not touched."""
    config = CONFIGS[name]
    generation = {
        "_from_model_config": True,
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "transformers_version": config["transformers_version"],
    }
    for file, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial = folder / "model.safetensors.partial"
    save_file(list_tensors(model, name), str(partial), metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def list_tensors(model: PreTrainedModel, name: str) -> dict[str, torch.Tensor]:
    """Name → tensor as on the Hub: its names, dtype and the buffers of its day."""
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    if CONFIGS[name]["model_type"] == "gpt_neox":
        return _list_neox(weights, CONFIGS[name])
    return _list_gpt_neo(weights)


def _list_neox(weights: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {
        key.replace("lm_head.", "embed_out."): value.to(torch.float16)
        for key, value in weights.items()
    }
    rotary = int(config["hidden_size"] // config["num_attention_heads"] * config["rotary_pct"])
    exponents = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
    frequencies = config["rotary_emb_base"] ** -exponents
    for layer in range(config["num_hidden_layers"]):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = _make_mask(config["max_position_embeddings"], torch.bool)
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9).to(torch.float16)
        tensors[f"{attention}.rotary_emb.inv_freq"] = frequencies.to(torch.float16)
    return tensors


def _list_gpt_neo(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    config = CONFIGS["gpt-neo"]
    tensors = {key: value for key, value in weights.items() if not key.startswith("lm_head.")}
    for layer, reach in enumerate(config["attention_layers"]):
        attention = f"transformer.h.{layer}.attn.attention"
        mask = _make_mask(config["max_position_embeddings"], torch.uint8)
        if reach == "local":
            mask = mask - mask.tril(-config["window_size"])
        tensors[f"{attention}.bias"] = mask
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
    return tensors


def _make_mask(positions: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(1, 1, positions, positions, dtype=dtype).tril()
