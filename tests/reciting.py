"""Tiny models of both families and layouts, and passages that they recite wholly, partly or not.

A passage is what the model itself says after a random prefix; some are then altered, so that
greedy decoding leaves them at a known place. No training is needed for every case to occur.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from tiny_compact import CONFIGS, VOCABULARY, stock
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.samples import Samples
from surgery.editing.in_memory import apply

PREFIX, SUFFIX = 7, 9
MODELS = (
    "neox-parallel",
    "neox-sequential",
    "neo",
    "neox-parallel stock identity",
    "neox-parallel compact identity",
    "neox-parallel compact all",
    "neo stock zero",
    "neo compact identity",
    "neo compact first",
)
BLOCKS = {"all": "0-3", "first": "0"}


@lru_cache
def model_named(name: str) -> Any:
    """A model of `MODELS`: a base, then the layout and what was edited."""
    base, *edit = name.split()
    model = two_heads() if "stock identity" in name else stock(base)
    if not edit:
        return model
    layout, what = edit
    variant = what if what in ("identity", "zero") else "identity"
    return apply(model, BLOCKS.get(what, "1,3"), variant, layout=layout)


def generate(model: Any, prefix: torch.Tensor, length: int) -> torch.Tensor:
    """The reference: the library's own greedy decoding, [B, P] -> [B, length]."""
    mask = torch.ones_like(prefix)
    output = model.generate(
        prefix, attention_mask=mask, do_sample=False, max_new_tokens=length, pad_token_id=1
    )
    return output[:, prefix.shape[1] :]


def two_heads() -> Any:
    """A GPT-NeoX model whose heads have enough rotary pairs for the stock layout."""
    torch.manual_seed(3)
    config = GPTNeoXConfig(
        **{**CONFIGS["neox-parallel"], "num_attention_heads": 2, "initializer_range": 0.2}
    )
    return GPTNeoXForCausalLM(config).eval()


@lru_cache
def passages(name: str, rows: int = 15, prefix: int = PREFIX, suffix: int = SUFFIX) -> Samples:
    """Rows for `model_named(name)`: a third is exact, the others altered at one or more places."""
    rng = np.random.default_rng(5)
    prefixes = rng.integers(2, VOCABULARY, (rows, prefix))
    said = generate(model_named(name), torch.from_numpy(prefixes), suffix).numpy()
    tokens = np.concatenate([prefixes, said], axis=1).astype(np.int32)
    for row in range(rows):
        for _ in range(row % 3):
            place = prefix + rng.integers(suffix)
            tokens[row, place] = 2 + (tokens[row, place] + rng.integers(1, 80)) % (VOCABULARY - 2)
    return Samples(tokens, prefix, tuple(map(str, range(rows))), source="made here")
