"""Continues a prompt, and decodes many rows greedily, only where they need it.

Greedy decoding repeats a suffix exactly if and only if the most likely token, given the true
tokens before it, is the true one at every position. The end-of-text token is a token like any
other here: passages are windows of a training stream, where it separates documents.

Shape letters: B rows, P prefix tokens, S suffix tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from evals.run.forward import cut_back, head_of, hidden_states, whole_cache


def continue_prompt(
    model: PreTrainedModel,
    prompt: Sequence[int],
    length: int,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """As `continue_rows`, after one prompt. Returns int64 [R, length]; R is 1 without shares."""
    rows = torch.tensor([list(prompt)] * (1 if shares is None else len(shares)))
    return continue_rows(model, rows, length, shares)


@torch.inference_mode()
def continue_rows(
    model: PreTrainedModel, rows: torch.Tensor, length: int, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Decodes `length` tokens after each of int64 [R, P], greedily or drawn at random.

    `shares`: float64 [R, length] in [0, 1). Each picks the token at that share of the predicted
    distribution's cumulative sum. So two models that get the same shares write the same text until
    their predictions differ. Returns int64 [R, length].
    """
    head, cache, tokens = head_of(model), whole_cache(model), rows
    written = []
    for step in range(length):
        hidden, cache = hidden_states(model, tokens, cache=cache)
        logits = head(hidden[:, -1]).double().cpu()
        if shares is None:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            reached = logits.softmax(-1).cumsum(-1)
            wanted = shares[:, step : step + 1] * reached[:, -1:]
            tokens = torch.searchsorted(reached, wanted, right=True)
            tokens = tokens.clamp(max=logits.shape[-1] - 1)
        written.append(tokens)
    return torch.cat(written, dim=1)


@torch.inference_mode()
def decode_rest(
    model: PreTrainedModel,
    suffix: torch.Tensor,
    prefix_length: int,
    first_divergence: torch.Tensor,
    greedy: torch.Tensor,
    cache: Any,
) -> torch.Tensor:
    """Decodes each prefix greedily, starting from a teacher-forced pass and its cache.

    The pass has the tokens up to and including a row's `first_divergence` (int64 [B], S where it is
    exact), so exact rows are done, and the others begin where the first of them diverges. `suffix`,
    `greedy`: int64 [B, S], the true tokens and the pass's most likely ones; `cache`: of all tokens
    but the last, and then used up. Returns int64 [B, S].
    """
    length, head = suffix.shape[1], head_of(model)
    decoded = torch.where(torch.arange(length) <= first_divergence.unsqueeze(-1), greedy, suffix)
    rows = (first_divergence < length - 1).nonzero().flatten()
    begin = int(first_divergence.min())
    cut_back(cache, rows, prefix_length + begin)
    for step in range(begin, length - 1 if len(rows) else 0):
        hidden, _ = hidden_states(model, decoded[rows, step : step + 1], cache=cache)
        left = first_divergence[rows] <= step
        decoded[rows[left], step + 1] = head(hidden[left, -1]).argmax(-1).cpu()
    return decoded
