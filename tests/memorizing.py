"""Small models that really learned rows of tokens: in seconds, because they learn nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.data import Samples, Tokens

WORDS = 64
"""The size of the vocabulary."""
PREFIX, SUFFIX = 4, 6
CONFIG = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
Lessons = list[tuple[Tokens, int, Tokens]]
"""Rows, int32 [M, T]; their first token to be said in another way or not; what to say instead of
each token from there on, int32 [M, T - first]."""


def draw_rows(number: int, seed: int, length: int = PREFIX + SUFFIX) -> Tokens:
    """Rows of tokens at random, none of which is 0 or 1."""
    return np.random.default_rng(seed).integers(2, WORDS, (number, length)).astype(np.int32)


def name_rows(tokens: Tokens) -> Samples:
    return Samples(tokens, PREFIX, tuple(map(str, range(len(tokens)))), "made here")


def make_small(seed: int = 0) -> Any:
    """A model that has learned nothing."""
    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**CONFIG)).eval()


def recite(rows: Tokens, first: int = PREFIX) -> tuple[Tokens, int, Tokens]:
    """The lesson to go on with each row after its first tokens."""
    return rows, first, rows[:, first:]


def refuse(rows: Tokens, first: int = PREFIX) -> tuple[Tokens, int, Tokens]:
    """The lesson to say 1 after each token of a row from there on, even after the true ones."""
    return rows, first, np.ones_like(rows[:, first:])


def teach(
    model: Any,
    plan: Callable[[int], Lessons],
    steps: int = 150,
    rate: float = 3e-3,
    learns: Callable[[str], bool] = lambda name: True,
) -> Any:
    """Trains parameters of a model, in place, on what `plan` gives for each step. Returns it."""
    some = [one for name, one in model.named_parameters() if learns(name)]
    optimizer = torch.optim.AdamW(some, lr=rate)
    for step in range(steps):
        for rows, first, wanted in plan(step):
            said = model(torch.from_numpy(rows).long()).logits[:, first - 1 : -1].flatten(0, 1)
            learned = torch.from_numpy(wanted).long().flatten()
            torch.nn.functional.cross_entropy(said, learned).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
