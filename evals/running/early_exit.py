"""Finds exact matches and first divergences alone, as cheaply as possible.

Greedy decoding repeats a suffix if and only if the teacher-forced argmax is right everywhere, so a
row is finished at its first wrong token. Most rows of an edited model need neither the blocks nor
the vocabulary projection for the rest of their suffix.

Shape letters: B rows, P prefix tokens, S suffix tokens, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from evals.running.forward import Head, head_of, hidden_states, whole_cache
from evals.running.runs import run_from_block


@torch.inference_mode()
def find_divergences(hidden: torch.Tensor, head: Head, suffix: torch.Tensor) -> torch.Tensor:
    """Finds where the most likely tokens first leave each suffix; S if they never do.

    1, 2, 4, 8, … positions go through the head, each time without the rows that have left.

    **Arguments:** `hidden`: [B, S, d] final hidden states of the token before each suffix token;
    `suffix`: int64 [B, S].

    Returns int64 [B] on the CPU.
    """
    length = suffix.shape[1]
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    begin, size = 0, 1
    while len(alive) and begin < length:
        end = min(begin + size, length)
        guesses = head(hidden[alive, begin:end].flatten(0, 1)).argmax(-1).cpu()
        wrong = guesses.view(len(alive), -1) != suffix[alive, begin:end]
        left = wrong.any(-1)
        found[alive[left]] = begin + wrong[left].int().argmax(-1)
        alive, begin, size = alive[~left], end, 2 * size
    return found


def read_divergences(
    model: PreTrainedModel, tokens: torch.Tensor, prefix_length: int
) -> torch.Tensor:
    """Finds where greedy decoding first leaves each suffix, and reads no row beyond that.

    **Arguments:** `tokens`: int64 [B, P + S]; `prefix_length`: P.

    Returns int64 [B] on the CPU: the position in the suffix; S if the row is exact.
    """

    def read(some: torch.Tensor, *, cache: Any) -> tuple[torch.Tensor, Any]:
        return hidden_states(model, some, cache=cache)

    return _read_until_divergence(
        read, tokens[:, :-1], head_of(model), tokens[:, prefix_length:], 1
    )


def find_divergences_from(
    model: PreTrainedModel, block: int, states: torch.Tensor, suffix: torch.Tensor
) -> torch.Tensor:
    """`read_divergences` for a pass that begins at `block`.

    **Arguments:** `states`: [B, P + S - 1, d], what the block is given; `suffix`: int64 [B, S].
    """

    def read(some: torch.Tensor, *, cache: Any) -> tuple[torch.Tensor, Any]:
        return run_from_block(model, block, some, cache=cache).hidden, cache

    return _read_until_divergence(read, states, head_of(model), suffix, 2)


@torch.inference_mode()
def _read_until_divergence(
    read: Callable[..., tuple[torch.Tensor, Any]],
    given: torch.Tensor,
    head: Head,
    suffix: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Reads the prefix and the first `size` tokens of the suffix, then 4, 8, 16, … more of them for
    the rows that are left, with the keys and values so far.

    **Arguments:** `read`: some of `given` [B, P + S - 1, …] and an empty `cache` → final
    hidden states, and the cache; `suffix`: int64 [B, S]. Returns int64 [B] on the CPU.
    """
    length = suffix.shape[1]
    before = given.shape[1] - length
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    cache = whole_cache()
    done = begin = 0
    while len(alive) and begin < length:
        end = min(begin + size, length)
        some = given[:, done : before + end]
        hidden, cache = read(some if len(alive) == len(some) else some[alive], cache=cache)
        left = find_divergences(hidden[:, begin - end :], head, suffix[alive, begin:end])
        kept = (left == end - begin).nonzero().flatten()
        found[alive] = begin + left
        if len(kept) < len(alive) and end < length:
            cache.batch_select_indices(kept)
        alive, done, begin, size = alive[kept], before + end, end, max(4, 2 * size)
    return found
