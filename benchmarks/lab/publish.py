"""A trained lab model → a folder stored as the real Hub repository stores it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from benchmarks.lab.architecture import CONFIGS


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
    save_file(stored_tensors(model, name), str(partial), metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")


def stored_tensors(model: PreTrainedModel, name: str) -> dict[str, torch.Tensor]:
    """Name → tensor as on the Hub: its names, dtype and the buffers of its day."""
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    return _as_pythia(weights) if name == "pythia" else _as_gpt_neo(weights)


def _as_pythia(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    config = CONFIGS["pythia"]
    tensors = {
        key.replace("lm_head.", "embed_out."): value.to(torch.float16)
        for key, value in weights.items()
    }
    rotary = int(config["hidden_size"] // config["num_attention_heads"] * config["rotary_pct"])
    exponents = torch.arange(0, rotary, 2, dtype=torch.float32) / rotary
    frequencies = config["rotary_emb_base"] ** -exponents
    for layer in range(config["num_hidden_layers"]):
        attention = f"gpt_neox.layers.{layer}.attention"
        tensors[f"{attention}.bias"] = _causal(config["max_position_embeddings"], torch.bool)
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9).to(torch.float16)
        tensors[f"{attention}.rotary_emb.inv_freq"] = frequencies.to(torch.float16)
    return tensors


def _as_gpt_neo(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    config = CONFIGS["gpt-neo"]
    tensors = {key: value for key, value in weights.items() if not key.startswith("lm_head.")}
    for layer, reach in enumerate(config["attention_layers"]):
        attention = f"transformer.h.{layer}.attn.attention"
        mask = _causal(config["max_position_embeddings"], torch.uint8)
        if reach == "local":
            mask = mask - mask.tril(-config["window_size"])
        tensors[f"{attention}.bias"] = mask
        tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
    return tensors


def _causal(positions: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.ones(1, 1, positions, positions, dtype=dtype).tril()
