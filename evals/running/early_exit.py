"""The exact match alone, as cheaply as it can be had from stored states.

Greedy decoding repeats a suffix if and only if the teacher-forced argmax is right everywhere, so a
row is finished at its first wrong token: most rows of an edited model need neither the blocks nor
the vocabulary projection for the rest of their suffix.

Shape letters: B rows, P prefix tokens, S suffix tokens, d width.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from evals.running.forward import Head, head_of, keep_rows
from evals.running.runs import from_block

_FIRST_CHUNK = 2
"""Suffix tokens that are read together with the prefix."""


@torch.inference_mode()
def leaving(hidden: torch.Tensor, head: Head, suffix: torch.Tensor) -> torch.Tensor:
    """Where the most likely tokens first leave each suffix; S where they never do.

    1, 2, 4, 8, … positions go through the head, and rows that have left are not in the next ones.

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


def leaving_from(
    model: PreTrainedModel, block: int, states: torch.Tensor, suffix: torch.Tensor
) -> torch.Tensor:
    """`leaving` for a pass that begins at `block`.

    The blocks read the prefix and the first tokens of the suffix, then 4, 8, 16, … more of them for
    the rows that are left, with the keys and values of what they have read.

    **Arguments:** `states`: [B, P + S - 1, d], what the block is given; `suffix`: int64 [B, S].
    """
    length = suffix.shape[1]
    before = states.shape[1] - length
    head, cache = head_of(model), DynamicCache()
    found, alive = torch.full((len(suffix),), length), torch.arange(len(suffix))
    read, begin, size = 0, 0, _FIRST_CHUNK
    while len(alive) and begin < length:
        end = min(begin + size, length)
        given = states[:, read : before + end]
        if len(alive) < len(given):
            given = given[alive]
        hidden = from_block(model, block, given, cache=cache).hidden[:, begin - end :]
        left = leaving(hidden, head, suffix[alive, begin:end])
        kept = (left == end - begin).nonzero().flatten()
        found[alive] = begin + left
        if len(kept) < len(alive) and end < length:
            keep_rows(cache, kept)
        alive, read, begin, size = alive[kept], before + end, end, 2 * size
    return found
