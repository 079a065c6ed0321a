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
from transformers.cache_utils import DynamicLayer

from evals.running.forward import head_of, hidden_states, whole_cache


@torch.inference_mode()
def continue_prompt(
    model: PreTrainedModel,
    prompt: Sequence[int],
    length: int,
    shares: torch.Tensor | None = None,
) -> torch.Tensor:
    """Decodes `length` tokens after a prompt, greedily or drawn at random.

    `shares`: float64 [R, length] in [0, 1). Each picks the token at that share of the predicted
    distribution's cumulative sum. So two models that get the same shares write the same text until
    their predictions differ. Returns int64 [R, length]; R is 1 without shares.
    """
    head, cache = head_of(model), whole_cache()
    tokens = torch.tensor([list(prompt)] * (1 if shares is None else len(shares)))
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
    exact). There a row joins, with the keys and values of the pass. So the model reads no token
    twice, and rows need no padding. `suffix`, `greedy`: int64 [B, S], the true tokens and the
    pass's most likely ones; `cache`: of the P + S - 1 tokens before the last, and then used up.

    Returns int64 [B, S].
    """
    length = suffix.shape[1]
    head = head_of(model)
    before = torch.arange(length) <= first_divergence.unsqueeze(-1)
    decoded = torch.where(before, greedy, suffix)
    # In order of divergence, the rows to decode at a step come first.
    order = first_divergence.argsort(stable=True)
    order = order[first_divergence[order] < length - 1]
    leaving = first_divergence[order]
    layers = {
        at: _RewritableLayer(layer.keys[order], layer.values[order])
        for at, layer in enumerate(cache.layers)
        if isinstance(getattr(layer, "keys", None), torch.Tensor)  # a block may keep nothing
    }
    for at, layer in layers.items():
        cache.layers[at] = layer
    for step in range(int(first_divergence.min()), length - 1):
        active = order[: int((leaving <= step).sum())]
        for layer in layers.values():
            layer.rewind(len(active), prefix_length + step)
        hidden, _ = hidden_states(model, decoded[active, step : step + 1], cache=cache)
        decoded[active, step + 1] = head(hidden[:, -1]).argmax(-1).cpu()
    return decoded


class _RewritableLayer(DynamicLayer):
    """Keys and values [B, heads, T, size], of which the model reads the first rows and tokens.

    The library's own layer copies everything for every token. This one keeps those of a finished
    pass, and decoding overwrites them in place from where it leaves the pass.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.rewind(keys.shape[0], keys.shape[2])

    def rewind(self, rows: int, length: int) -> None:
        """Keeps the first `rows` rows and `length` tokens."""
        self.keys = self.all_keys[:rows, :, :length]
        self.values = self.all_values[:rows, :, :length]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, length = self.keys.shape[0], self.keys.shape[2]
        end = length + key_states.shape[2]
        self.all_keys[:rows, :, length:end] = key_states
        self.all_values[:rows, :, length:end] = value_states
        self.rewind(rows, end)
        return self.keys, self.values
