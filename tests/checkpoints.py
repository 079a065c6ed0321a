"""Small faithful copies of the Hub repositories of Pythia and GPT-Neo.

The same config keys, tensor names, buffers, dtypes and sharding; random weights of a trained
model's scale, so that logits are far from uniform.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def neox_config(**overrides: Any) -> dict[str, Any]:
    """config.json of a Pythia model, shrunk: 4 blocks, d 64, 2 heads of 32, 256 positions."""
    config: dict[str, Any] = {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 256,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 256,
        "model_type": "gpt_neox",
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 128,
    }
    return {**config, **overrides}


def neo_config(**overrides: Any) -> dict[str, Any]:
    """config.json of a GPT-Neo model, shrunk: 4 blocks, global and local, d 64, 2 heads, 256
    positions."""
    config: dict[str, Any] = {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * 2,
        "attention_types": [[["global", "local"], 2]],
        "bos_token_id": 0,
        "embed_dropout": 0,
        "eos_token_id": 0,
        "gradient_checkpointing": False,
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 256,
        "model_type": "gpt_neo",
        "num_heads": 2,
        "num_layers": 4,
        "resid_dropout": 0,
        "torch_dtype": "float32",
        "transformers_version": "4.9.0.dev0",
        "use_cache": True,
        "vocab_size": 128,
        "window_size": 16,
    }
    return {**config, **overrides}


def make_tensors(config: dict[str, Any], *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of such a checkpoint, under its stored name, in the config's dtype."""
    build = _neox_tensors if config["model_type"] == "gpt_neox" else _neo_tensors
    return build(config, torch.Generator().manual_seed(seed), DTYPES[config["torch_dtype"]])


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    *,
    seed: int = 0,
    weights: str = "safetensors",
    num_shards: int = 1,
    tensors: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Writes a checkpoint folder. `weights`: safetensors, bin, or both."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = make_tensors(config, seed=seed) if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if weights in ("safetensors", "both"):
        # safetensors holds a tied tensor once
        alone = {k: v.contiguous() for k, v in tensors.items() if k != "lm_head.weight"}
        _write_shards(folder, alone, num_shards, "model", "safetensors")
    if weights in ("bin", "both"):
        _write_shards(folder, tensors, num_shards, "pytorch_model", "bin")
    return folder


def _write_shards(
    folder: Path, tensors: dict[str, torch.Tensor], num_shards: int, stem: str, suffix: str
) -> None:
    names = list(tensors)
    if num_shards == 1:
        _save(folder / f"{stem}.{suffix}", tensors)
        return
    weight_map = {}
    for shard in range(num_shards):
        file = f"{stem}-{shard + 1:05d}-of-{num_shards:05d}.{suffix}"
        own = names[shard * len(names) // num_shards : (shard + 1) * len(names) // num_shards]
        _save(folder / file, {name: tensors[name] for name in own})
        weight_map.update(dict.fromkeys(own, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def _save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def _causal(size: int) -> torch.Tensor:
    return torch.tril(torch.ones(size, size, dtype=torch.bool)).view(1, 1, size, size)


def _neox_tensors(
    config: dict[str, Any], generator: torch.Generator, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    def normal(*shape: int, scale: float) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    d, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    rotary = int(d // config["num_attention_heads"] * config["rotary_pct"])
    frequencies = 1.0 / 10000 ** (torch.arange(0, rotary, 2).float() / max(rotary, 1))
    tensors = {"gpt_neox.embed_in.weight": normal(vocab, d, scale=0.5)}
    for block in range(config["num_hidden_layers"]):
        at = f"gpt_neox.layers.{block}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{norm}.weight"] = 1 + normal(d, scale=0.1)
            tensors[f"{at}{norm}.bias"] = normal(d, scale=0.1)
        tensors[f"{at}attention.bias"] = _causal(config["max_position_embeddings"])
        tensors[f"{at}attention.masked_bias"] = torch.tensor(-1e9).to(dtype)
        tensors[f"{at}attention.rotary_emb.inv_freq"] = frequencies.to(dtype, copy=True)
        tensors[f"{at}attention.query_key_value.weight"] = normal(3 * d, d, scale=d**-0.5)
        tensors[f"{at}attention.dense.weight"] = normal(d, d, scale=d**-0.5)
        if config.get("attention_bias", True):
            tensors[f"{at}attention.query_key_value.bias"] = normal(3 * d, scale=0.1)
            tensors[f"{at}attention.dense.bias"] = normal(d, scale=0.1)
        tensors[f"{at}mlp.dense_h_to_4h.weight"] = normal(ff, d, scale=d**-0.5)
        tensors[f"{at}mlp.dense_h_to_4h.bias"] = normal(ff, scale=0.1)
        tensors[f"{at}mlp.dense_4h_to_h.weight"] = normal(d, ff, scale=ff**-0.5)
        tensors[f"{at}mlp.dense_4h_to_h.bias"] = normal(d, scale=0.1)
    tensors["gpt_neox.final_layer_norm.weight"] = 1 + normal(d, scale=0.1)
    tensors["gpt_neox.final_layer_norm.bias"] = normal(d, scale=0.1)
    tensors["embed_out.weight"] = normal(vocab, d, scale=d**-0.5)
    return tensors


def _neo_tensors(
    config: dict[str, Any], generator: torch.Generator, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    def normal(*shape: int, scale: float) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    d, vocab, positions = (
        config["hidden_size"],
        config["vocab_size"],
        config["max_position_embeddings"],
    )
    ff = config["intermediate_size"] or 4 * d
    tensors = {
        "transformer.wte.weight": normal(vocab, d, scale=0.5),
        "transformer.wpe.weight": normal(positions, d, scale=0.1),
    }
    for block, kind in enumerate(config["attention_layers"]):
        at = f"transformer.h.{block}."
        mask = _causal(positions)
        if kind == "local":
            mask = torch.bitwise_xor(mask, torch.tril(mask, -config["window_size"]))
        tensors[f"{at}ln_1.weight"] = 1 + normal(d, scale=0.1)
        tensors[f"{at}ln_1.bias"] = normal(d, scale=0.1)
        tensors[f"{at}attn.attention.bias"] = mask
        tensors[f"{at}attn.attention.masked_bias"] = torch.tensor(-1e9).to(dtype)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            tensors[f"{at}attn.attention.{name}.weight"] = normal(d, d, scale=d**-0.5)
        tensors[f"{at}attn.attention.out_proj.bias"] = normal(d, scale=0.1)
        tensors[f"{at}ln_2.weight"] = 1 + normal(d, scale=0.1)
        tensors[f"{at}ln_2.bias"] = normal(d, scale=0.1)
        tensors[f"{at}mlp.c_fc.weight"] = normal(ff, d, scale=d**-0.5)
        tensors[f"{at}mlp.c_fc.bias"] = normal(ff, scale=0.1)
        tensors[f"{at}mlp.c_proj.weight"] = normal(d, ff, scale=ff**-0.5)
        tensors[f"{at}mlp.c_proj.bias"] = normal(d, scale=0.1)
    tensors["transformer.ln_f.weight"] = 1 + normal(d, scale=0.1)
    tensors["transformer.ln_f.bias"] = normal(d, scale=0.1)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]  # tied: one storage
    return tensors
