"""Finds exact matches and first divergences alone, as cheaply as possible.

Greedy decoding repeats a suffix if and only if the teacher-forced argmax is right everywhere, so a
row is finished at its first wrong token. Most rows of an edited model need neither the blocks nor
the vocabulary projection for the rest of their suffix.

Shape letters: B rows, P prefix tokens, S suffix tokens, d width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from evals.run.finite import check_finite
from evals.run.forward import Head, head_of, hidden_states, whole_cache


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
        wrong = (guesses.view(len(alive), -1) != true) & (
            true >= 0
        )  # places after the end are never wrong
        left = wrong.any(-1)
        found[alive[left]] = begin + wrong[left].int().argmax(-1)
        alive, begin, size = alive[~left], end, 2 * size
    return found


@torch.inference_mode()
def read_divergences(
    model: PreTrainedModel, tokens: torch.Tensor, prefix_length: int
) -> torch.Tensor:
    """Finds where greedy decoding first leaves each suffix, and reads no row beyond that.

    Reads the prefix and the first token of the suffix, then 4, 8, 16, … more of them for the rows
    that are left, with the keys and values so far; all at once where these are not kept.

    `tokens`: int64 [B, P + S]. Returns int64 [B] on the CPU: S if the row is exact.
    """
    suffix, before = tokens[:, prefix_length:], prefix_length - 1
    length = suffix.shape[1]
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    cache: Any = whole_cache(model)
    head = head_of(model)
    size = 1
    done = begin = 0
    while len(alive) and begin < length:
        end = min(begin + size, length)
        some = tokens[:, done : before + end]
        some = some if len(alive) == len(some) else some[alive]
        hidden, _ = hidden_states(model, some, cache=cache)
        left = find_divergences(hidden[:, begin - end :], head, suffix[alive, begin:end])
        kept = (left == end - begin).nonzero().flatten()
        found[alive] = begin + left
        if len(kept) < len(alive) and end < length:
            cache.batch_select_indices(kept)
        alive, done, begin, size = alive[kept], before + end, end, max(4, 2 * size)
    return found
