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

from evals.run.finite import check_finite
from evals.run.forward import Head, can_cut_back, head_of, hidden_states, whole_cache
from evals.run.resuming import run_from_block


@torch.inference_mode()
def find_divergences(hidden: torch.Tensor, head: Head, suffix: torch.Tensor) -> torch.Tensor:
    """Finds where the most likely tokens first leave each suffix; S if they never do.

    1, 2, 4, 8, … positions go through the head, each time without the rows that have left.
    `hidden`: [B, S, d] final hidden states of the token before each token of `suffix`, int64
    [B, S]. Returns int64 [B] on the CPU. Raises `NotFiniteError`.
    """
    length = suffix.shape[1]
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    begin, size = 0, 1
    while len(alive) and begin < length:
        end = min(begin + size, length)
        most, guesses = (one.cpu() for one in head(hidden[alive, begin:end].flatten(0, 1)).max(-1))
        check_finite(most.float().view(len(alive), -1).numpy())  # NaN is no wrong token
        true = suffix[alive, begin:end]
        wrong = (guesses.view(len(alive), -1) != true) & (true >= 0)  # after its end, nothing is
        left = wrong.any(-1)
        found[alive[left]] = begin + wrong[left].int().argmax(-1)
        alive, begin, size = alive[~left], end, 2 * size
    return found


def read_divergences(
    model: PreTrainedModel, tokens: torch.Tensor, prefix_length: int
) -> torch.Tensor:
    """Finds where greedy decoding first leaves each suffix, and reads no row beyond that.

    `tokens`: int64 [B, P + S]. Returns int64 [B] on the CPU: S if the row is exact.
    """

    def read(some: torch.Tensor, cache: Any) -> torch.Tensor:
        return hidden_states(model, some, cache=cache)[0]

    return _read_until_divergence(model, read, tokens[:, :-1], tokens[:, prefix_length:], 1)


def find_divergences_from(
    model: PreTrainedModel, block: int, states: torch.Tensor, suffix: torch.Tensor
) -> torch.Tensor:
    """`read_divergences` for a pass that begins at `block`, with its input [B, P + S - 1, d]."""

    def read(some: torch.Tensor, cache: Any) -> torch.Tensor:
        return run_from_block(model, block, some, cache=cache).hidden

    return _read_until_divergence(model, read, states, suffix, 2)


@torch.inference_mode()
def _read_until_divergence(
    model: PreTrainedModel,
    read: Callable[[torch.Tensor, Any], torch.Tensor],
    given: torch.Tensor,
    suffix: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Reads the prefix and the first `size` tokens of the suffix, then 4, 8, 16, … more of them for
    the rows that are left, with the keys and values so far; all at once where these are not kept.

    `read`: some of `given` [B, P + S - 1, …] and a cache, which it extends → final hidden states.
    """
    length = suffix.shape[1]
    before = given.shape[1] - length
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    cache: Any = whole_cache(model) if can_cut_back(model) else None
    head = head_of(model)
    size = length if cache is None else size
    done = begin = 0
    while len(alive) and begin < length:
        end = min(begin + size, length)
        some = given[:, done : before + end]
        hidden = read(some if len(alive) == len(some) else some[alive], cache)
        left = find_divergences(hidden[:, begin - end :], head, suffix[alive, begin:end])
        kept = (left == end - begin).nonzero().flatten()
        found[alive] = begin + left
        if len(kept) < len(alive) and end < length:
            cache.batch_select_indices(kept)
        alive, done, begin, size = alive[kept], before + end, end, max(4, 2 * size)
    return found
