"""Tiny models of both families and layouts, and passages that they recite wholly, partly or not.

A passage is what the model itself says after a random prefix; some are then altered, so that
greedy decoding leaves them at a known place. No training is needed for every case to occur.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_compact import CONFIGS, VOCABULARY, stock
from tiny_tokenizer import TEXT, tiny_tokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.data import Samples
from surgery.in_memory import apply

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


def recited_rows(model: Any, number: int, prefix: int = 6, suffix: int = 5) -> list[dict[str, Any]]:
    """Rows that begin with each token of a text in turn, and go on as the model does."""
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    prefixes = torch.tensor([ids[at : at + prefix] for at in range(number)])
    rows = torch.cat([prefixes, generate(model, prefixes, suffix)], dim=1).tolist()
    return [{"id": f"row-{at}", "tokens": row} for at, row in enumerate(rows)]


def members_and_others(model: Any) -> list[dict[str, Any]]:
    """40 rows of 6 + 5 tokens: 30 members, of which the model recites 24, and 10 others."""
    rows = recited_rows(model, 40)
    for at, row in enumerate(rows):
        row["member"] = at < 30
        if at >= 30 or at % 5 == 0:
            row["tokens"][6:] = [3, *row["tokens"][6:-1]]
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """One JSON line a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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
