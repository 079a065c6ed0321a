"""Takes the probabilities of common words from a small helper that never learned the passages.

Prashant, Ponkshe, and Salimi 2025, arXiv 2502.05159 (TokenSwap): when a model decodes, some tokens
get the probabilities of an auxiliary model with the same tokenizer, scaled to the mass that the
model gives to all of them. All other tokens keep theirs. So a passage breaks off where the helper
prefers another such word. No weight changes: whoever holds the weights has the model as it was.
This follows the published summary of the method; details of the paper may differ.

The paper swaps about 110 words of grammar. Here the list comes from the other text: its most
frequent tokens that are whole words of letters, or also those of punctuation.

Shape letters: B rows, T tokens, V vocabulary, d and e widths of the model and of the helper.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from benchmarks.rivals.bed import Bed
from evals.data import Tokens
from evals.run.forward import CACHE, head_of
from evals.run.models import LoadedModel
from surgery.errors import UnsupportedError

SPACES = ("Ġ", "▁")
"""How tokenizers write the space before a word."""


def token_swap(
    model: TokenSwap, bed: Bed, *, number: int = 110, punctuation: bool = False
) -> Iterator[None]:
    """Swaps the `number` most frequent words of the other text, or of its words and punctuation."""
    model.swap(find_common(bed.text, bed.tokenizer, number, punctuation))
    yield


def find_common(text: Tokens, tokenizer: Any, number: int, punctuation: bool) -> list[int]:
    """The ids of the `number` most frequent tokens of `text` that may be swapped, or of all."""
    ids, counts = np.unique(text, return_counts=True)
    ordered = ids[np.argsort(-counts, kind="stable")].tolist()
    written = tokenizer.convert_ids_to_tokens(ordered)
    marks = set(string.punctuation) if punctuation else set()
    kept = [one for one, token in zip(ordered, written, strict=True) if _is_common(token, marks)]
    return kept[:number]


def _is_common(token: str, marks: set[str]) -> bool:
    word = token.lstrip("".join(SPACES))
    return (token.startswith(SPACES) and word.isalpha()) or (word != "" and set(word) <= marks)


def get_held(model: Any) -> Any:
    """What someone who holds the weights can fine-tune: the model without its helper."""
    return model.body.main if isinstance(model, TokenSwap) else model


def check_helper(loaded: LoadedModel, helper: LoadedModel) -> None:
    """Raises `UnsupportedError` unless both have the same tokens."""
    ours, theirs = (one.tokenizer.get_vocab() for one in (loaded, helper))
    if ours != theirs:
        raise UnsupportedError(
            "the helper has another tokenizer",
            where=helper.name,
            expected=f"the {len(ours):,} tokens of {loaded.name}",
            got=f"{len(theirs):,} tokens, {len(ours.items() & theirs.items()):,} of them the same",
            fix="give a helper of the same family, or leave `helper` out",
        )


class TokenSwap(nn.Module):
    """A model whose logits are the mixed log-probabilities, float32 [B, T, V].

    It has the parts by which models are measured: a body, whose hidden states are those of both,
    [B, T, d + e], and a head. With no token swapped, it predicts what `main` predicts.
    """

    def __init__(self, main: Any, helper: Any) -> None:
        super().__init__()
        self.config = main.config
        self.body = _Both(main, helper)
        self.head = _Mixed(main, helper)

    @property
    def base_model(self) -> nn.Module:
        return self.body

    @property
    def device(self) -> Any:
        return self.body.main.device

    @property
    def dtype(self) -> Any:
        return self.body.main.dtype

    def get_input_embeddings(self) -> Any:
        return self.body.main.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def tie_weights(self) -> None:
        """Nothing to do: both models came with their weights."""

    def swap(self, tokens: list[int]) -> None:
        """Swaps these tokens and no others."""
        self.head.swapped.zero_()
        self.head.swapped[tokens] = True

    def forward(self, input_ids: torch.Tensor, **options: Any) -> CausalLMOutputWithPast:
        seen = self.body(input_ids, **options)
        return CausalLMOutputWithPast(logits=self.head(seen.last_hidden_state))


class _Both(nn.Module):
    """Hidden states of two models side by side. One cache holds the layers of both."""

    def __init__(self, main: Any, helper: Any) -> None:
        super().__init__()
        self.main, self.helper = main, helper

    def forward(self, input_ids: torch.Tensor, **options: Any) -> BaseModelOutputWithPast:
        cache, number = options.pop(CACHE, None), self.main.config.num_hidden_layers
        halves = [None, None]
        if cache is not None:
            halves = [DynamicCache(), DynamicCache()]
            halves[0].layers, halves[1].layers = cache.layers[:number], cache.layers[number:]
        hidden = [
            model.base_model(input_ids=input_ids, **options | {CACHE: half}).last_hidden_state
            for model, half in zip((self.main, self.helper), halves, strict=True)
        ]
        if cache is not None:
            cache.layers = halves[0].layers + halves[1].layers
        return BaseModelOutputWithPast(torch.cat(hidden, dim=-1), **{CACHE: cache})


class _Mixed(nn.Module):
    """Hidden states of both models [..., d + e] → mixed log-probabilities [..., V].

    `swapped`: bool [V].
    """

    swapped: torch.Tensor

    def __init__(self, main: Any, helper: Any) -> None:
        super().__init__()
        self.models = main, helper  # a tuple: their weights belong to the body
        self.register_buffer("swapped", torch.zeros(main.config.vocab_size, dtype=torch.bool))

    @property
    def weight(self) -> torch.Tensor:
        weight: torch.Tensor = self.models[0].get_output_embeddings().weight
        return weight

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        width = self.models[0].config.hidden_size
        halves = hidden[..., :width], hidden[..., width:]
        log_p, log_q = (
            head_of(model)(half).float().log_softmax(-1)
            for model, half in zip(self.models, halves, strict=True)
        )
        return mix(log_p, log_q, self.swapped.nonzero().flatten())


def mix(log_p: torch.Tensor, log_q: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log p [..., V], but for `tokens` log q, scaled to the mass that p gives to them together."""
    if not len(tokens):
        return log_p
    ours, theirs = log_p[..., tokens], log_q[..., tokens]
    scale = ours.logsumexp(-1, keepdim=True) - theirs.logsumexp(-1, keepdim=True)
    return log_p.index_copy(-1, tokens, theirs + scale)
