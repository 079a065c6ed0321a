"""Tiny random models: a stock one, a reference that edits it in memory, and its compact checkpoint.

The reference is made without the package's code: each edited block keeps its own attention module,
which goes on filling the cache, but what it says is thrown away and the map is applied instead.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from surgery.compact import MODELING_FILE, auto_map, name_classes
from surgery.families import Family
from surgery.families import family_of as record_of
from surgery.loading import register_compact

WIDTH, HEADS, BLOCKS, VOCABULARY = 64, 4, 4, 89
PAD = 1

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": PAD,
}
_NEOX = {
    **_COMMON,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": 96,
    "rotary_pct": 0.25,
    "rotary_emb_base": 10000,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "neox-parallel": {**_NEOX, "use_parallel_residual": True},
    "neox-sequential": {**_NEOX, "use_parallel_residual": False},
    "neo": {
        **_COMMON,
        "num_layers": BLOCKS,
        "num_heads": HEADS,
        "intermediate_size": 96,
        "attention_types": [[["global", "local"], BLOCKS // 2]],
        "window_size": 5,
    },
}
EDITS: dict[str, dict[int, str]] = {
    "deep": {3: "affine"},
    "first": {0: "affine"},
    "mixed": {0: "none", 1: "constant", 3: "affine"},
    "all": {0: "affine", 1: "constant", 2: "none", 3: "affine"},
}
# What the library calls the cache: renamed in newer versions, which warn about the old name.
_NEW = "cache" in inspect.signature(GPTNeoForCausalLM.forward).parameters
CACHE = "cache" if _NEW else "past_key_values"


def family_of(name: str) -> str:
    return "gpt_neo" if name == "neo" else "gpt_neox"


def record(name: str) -> Family:
    return record_of({"model_type": family_of(name)})


def stock(name: str) -> Any:
    """The library's model with random weights large enough that attention changes its choices."""
    if name == "neo":
        model = GPTNeoForCausalLM(GPTNeoConfig(**CONFIGS[name]))
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIGS[name]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def blocks_of(model: Any) -> nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.gpt_neox.layers


def _pieces(name: str, block: nn.Module) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    """W_V [d, d], b_V [d] and the output projection of a stock block."""
    if name == "neo":
        attention = block.attn.attention
        return attention.v_proj.weight, torch.zeros(WIDTH), attention.out_proj
    fused = block.attention.query_key_value
    size = WIDTH // HEADS
    weight = fused.weight.view(HEADS, 3, size, WIDTH)[:, 2].reshape(WIDTH, WIDTH)
    return weight, fused.bias.view(HEADS, 3, size)[:, 2].reshape(WIDTH), block.attention.dense


def constant_of(index: int) -> torch.Tensor:
    return torch.linspace(-1.0, 1.0 + index, WIDTH)


class SelfOnly(nn.Module):
    """A block's attention with its cache writes kept and its output replaced."""

    def __init__(self, attention: nn.Module, output: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.attention, self.output = attention, output

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        self.attention(hidden_states, **kwargs)
        return self.output(hidden_states), None


def _output(name: str, block: nn.Module, index: int, kind: str) -> Any:
    if kind == "affine":
        value, bias, out = _pieces(name, block)
        return lambda x: out(nn.functional.linear(x, value.to(x), bias.to(x)))
    if kind == "constant":
        return lambda x: constant_of(index).to(x).expand_as(x)
    return torch.zeros_like


def reference(name: str, kinds: Mapping[int, str], dtype: torch.dtype = torch.float32) -> Any:
    """The stock model with the maps applied in its own modules."""
    model = stock(name).to(dtype)
    for index, kind in kinds.items():
        block = blocks_of(model)[index]
        output = _output(name, block, index, kind)
        if name == "neo":
            block.attn.attention = SelfOnly(block.attn.attention, output)
        else:
            block.attention = SelfOnly(block.attention, output)
    return model.eval()


@lru_cache
def tensors_of(name: str, kinds: tuple[tuple[int, str], ...]) -> dict[str, torch.Tensor]:
    """What a compact checkpoint stores, under the names that repositories use."""
    model = stock(name)
    tensors = {
        key.replace("lm_head.", "embed_out."): value.clone()
        for key, value in model.state_dict().items()
        if not (name == "neo" and key == "lm_head.weight")  # tied
    }
    prefix = (
        "transformer.h.{}.attn.attention." if name == "neo" else "gpt_neox.layers.{}.attention."
    )
    edited = dict(kinds)
    for index in range(BLOCKS):
        here = prefix.format(index)
        if index not in edited:
            tensors[f"{here}bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
            tensors[f"{here}masked_bias"] = torch.tensor(-1e9)
            if name != "neo":
                tensors[f"{here}rotary_emb.inv_freq"] = torch.ones(2)
            continue
        for key in [key for key in tensors if key.startswith(here)]:
            del tensors[key]
        if edited[index] == "affine":
            value, bias, out = _pieces(name, blocks_of(model)[index])
            W_O = out.weight.detach().double()
            tensors[f"{here}affine.weight"] = (W_O @ value.detach().double()).float()
            tensors[f"{here}affine.bias"] = (
                W_O @ bias.detach().double() + out.bias.detach().double()
            ).float()
        elif edited[index] == "constant":
            tensors[f"{here}affine.bias"] = constant_of(index)
    return tensors


def config_of(name: str, kinds: Mapping[int, str]) -> dict[str, Any]:
    """config.json of the compact checkpoint."""
    family = record(name)
    return {
        **CONFIGS[name],
        "model_type": family.compact_model_type,
        "architectures": [name_classes(family)["AutoModelForCausalLM"]],
        "auto_map": auto_map(family),
        "attention_free_blocks": {str(index): kind for index, kind in kinds.items()},
    }


def write_compact(
    name: str, kinds: Mapping[int, str], folder: Path, head: str = "embed_out"
) -> Path:
    """Writes a compact checkpoint into `folder`; `head` is the output embedding's stored name.

    The library's auto classes can load it from here on."""
    register_compact({"model_type": record(name).model_type})
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        key.replace("embed_out.", f"{head}."): value
        for key, value in tensors_of(name, tuple(kinds.items())).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_of(name, kinds)))
    (folder / MODELING_FILE.name).write_bytes(MODELING_FILE.read_bytes())
    return folder
