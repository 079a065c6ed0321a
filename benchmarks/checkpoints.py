"""Writes checkpoints of the real Pythia shapes, with random weights, for benchmarks.

    python benchmarks/checkpoints.py 1.4b DIR

The files have the names, dtypes, buffers and sharding of the Hub repositories.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from transformers import GPTNeoXForCausalLM

from surgery.checkpoint.tensors import TensorInfo, write_header

# name: blocks, model width, heads, vocabulary
SHAPES = {
    "160m": (12, 768, 12, 50_304),
    "410m": (24, 1024, 16, 50_304),
    "1.4b": (24, 2048, 16, 50_304),
    "2.8b": (32, 2560, 32, 50_304),
    "12b": (36, 5120, 40, 50_688),
}
_POSITIONS = 2048
_SHARD_BYTES = 10_000_000_000  # as the Hub repositories: one file up to 10 GB


def config_of(shape: str) -> dict[str, object]:
    """config.json of that Pythia size."""
    blocks, d, heads, vocabulary = SHAPES[shape]
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": d,
        "initializer_range": 0.02,
        "intermediate_size": 4 * d,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": _POSITIONS,
        "model_type": "gpt_neox",
        "num_attention_heads": heads,
        "num_hidden_layers": blocks,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": vocabulary,
    }


def tensors_of(shape: str) -> list[TensorInfo]:
    """Every stored tensor of that size, buffers included, in stored order."""
    blocks, d, heads, vocabulary = SHAPES[shape]
    rotary = d // heads // 4
    found = [TensorInfo("gpt_neox.embed_in.weight", "F16", (vocabulary, d))]
    for block in range(blocks):
        at = f"gpt_neox.layers.{block}."
        found += [
            TensorInfo(at + "input_layernorm.weight", "F16", (d,)),
            TensorInfo(at + "input_layernorm.bias", "F16", (d,)),
            TensorInfo(at + "post_attention_layernorm.weight", "F16", (d,)),
            TensorInfo(at + "post_attention_layernorm.bias", "F16", (d,)),
            TensorInfo(at + "attention.bias", "BOOL", (1, 1, _POSITIONS, _POSITIONS)),
            TensorInfo(at + "attention.masked_bias", "F16", ()),
            TensorInfo(at + "attention.rotary_emb.inv_freq", "F16", (rotary // 2,)),
            TensorInfo(at + "attention.query_key_value.weight", "F16", (3 * d, d)),
            TensorInfo(at + "attention.query_key_value.bias", "F16", (3 * d,)),
            TensorInfo(at + "attention.dense.weight", "F16", (d, d)),
            TensorInfo(at + "attention.dense.bias", "F16", (d,)),
            TensorInfo(at + "mlp.dense_h_to_4h.weight", "F16", (4 * d, d)),
            TensorInfo(at + "mlp.dense_h_to_4h.bias", "F16", (4 * d,)),
            TensorInfo(at + "mlp.dense_4h_to_h.weight", "F16", (d, 4 * d)),
            TensorInfo(at + "mlp.dense_4h_to_h.bias", "F16", (d,)),
        ]
    return [
        *found,
        TensorInfo("gpt_neox.final_layer_norm.weight", "F16", (d,)),
        TensorInfo("gpt_neox.final_layer_norm.bias", "F16", (d,)),
        TensorInfo("embed_out.weight", "F16", (vocabulary, d)),
    ]


def write_checkpoint(shape: str, folder: Path, *, sparse: bool = False) -> int:
    """Writes the checkpoint; returns the bytes of its weights. `sparse`: all zero, as holes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=2) + "\n")
    shards: list[list[TensorInfo]] = [[]]
    for tensor in tensors_of(shape):
        if sum(info.nbytes for info in shards[-1]) + tensor.nbytes > _SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    names = [f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else ["model.safetensors"]
    for name, tensors in zip(names, shards, strict=True):
        _write_shard(folder / name, tensors, sparse)
    total = sum(tensor.nbytes for tensors in shards for tensor in tensors)
    if len(shards) > 1:
        holds = {t.name: name for name, some in zip(names, shards, strict=True) for t in some}
        index = {"metadata": {"total_size": total}, "weight_map": holds}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def write_passages(model: Path, path: Path, rows: int, *, prefix: int, suffix: int) -> None:
    """Passages that a model of random weights recites: random tokens, and what it makes of them."""
    torch.manual_seed(0)
    loaded: Any = GPTNeoXForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    given = torch.randint(10, 8_000, (rows, prefix))
    lengths = {"min_new_tokens": suffix, "max_new_tokens": suffix}
    with torch.inference_mode():
        mask = torch.ones_like(given)
        found = loaded.generate(given, attention_mask=mask, do_sample=False, **lengths)
    path.write_text("".join(json.dumps({"tokens": row}) + "\n" for row in found.tolist()))


def _write_shard(path: Path, tensors: list[TensorInfo], sparse: bool) -> None:
    normal = (np.random.default_rng(0).standard_normal(1 << 23) * 0.02).astype(np.float16)
    ones = np.ones(1 << 23, np.float16)
    pattern = {"F16": normal.view(np.uint8), "BOOL": np.ones(1 << 23, np.uint8)}
    with path.open("wb") as file:
        file.write(write_header(tensors, {"format": "pt"}))
        if sparse:
            file.truncate(file.tell() + sum(tensor.nbytes for tensor in tensors))
            return
        for tensor in tensors:
            scale = tensor.name.endswith("norm.weight")  # of a layer norm, one as in a real model
            data = ones.view(np.uint8) if scale else pattern[tensor.dtype]
            left = tensor.nbytes
            while left:
                file.write(data[: min(left, len(data))].data)
                left -= min(left, len(data))


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
def main(shape: str, folder: Path) -> None:
    """Write a random checkpoint of a Pythia SHAPE into FOLDER."""
    click.echo(f"{write_checkpoint(shape, folder):,} bytes of weights in {folder}")


if __name__ == "__main__":
    main()
