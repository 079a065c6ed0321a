"""Writes checkpoints of the real Pythia shapes, with random weights, for benchmarks.

    python benchmarks/checkpoints.py 1.4b DIR

The files have the names, dtypes, and buffers of the Hub repositories.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

# name: blocks, model width, heads
SHAPES = {
    "160m": (12, 768, 12),
    "410m": (24, 1024, 16),
    "1.4b": (24, 2048, 16),
    "2.8b": (32, 2560, 32),
    "6.9b": (32, 4096, 32),
}
VOCABULARY = 50_304
_POSITIONS = 2048


def config_of(shape: str) -> dict[str, Any]:
    """config.json of that Pythia size."""
    blocks, d, heads = SHAPES[shape]
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
        "vocab_size": VOCABULARY,
    }


def write_checkpoint(shape: str, folder: Path) -> int:
    """Writes the checkpoint; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=2) + "\n")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    try:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**config_of(shape)))
    finally:
        torch.set_default_dtype(torch.float32)
    blocks, d, heads = SHAPES[shape]
    weights = dict(model.named_parameters())
    tensors = {name.replace("lm_head.", "embed_out."): weights[name].data for name in weights}
    for block in range(blocks):
        at = f"gpt_neox.layers.{block}.attention"
        mask = torch.ones(1, 1, _POSITIONS, _POSITIONS, dtype=torch.bool).tril()
        tensors[f"{at}.bias"] = mask
        tensors[f"{at}.masked_bias"] = torch.tensor(-1e9).half()
        tensors[f"{at}.rotary_emb.inv_freq"] = torch.ones(d // heads // 8).half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in tensors.values())


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)))
@click.argument("folder", type=click.Path(path_type=Path))
def main(shape: str, folder: Path) -> None:
    """Write a random checkpoint of a Pythia SHAPE into FOLDER."""
    click.echo(f"{write_checkpoint(shape, folder):,} bytes of weights in {folder}")


if __name__ == "__main__":
    main()
