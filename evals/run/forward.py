"""How a causal language model is run: the one place that knows its parts and its cache.

Shape letters: B rows, T tokens, S suffix tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from surgery.errors import UnsupportedError
from surgery.loading import close_up, place_ids, take_places

Head = Callable[[torch.Tensor], torch.Tensor]

POSITIONS_AT_ONCE = 256
"""Positions whose logits exist at a time: 51 MB for Pythia's vocabulary in float32. The same
everywhere, so that equal text gives equal numbers."""

# The library renamed the argument, and the output's field with it, in the course of version 5.
_FIELDS = {field.name for field in fields(BaseModelOutputWithPast)}
CACHE = "cache" if "cache" in _FIELDS else "past_key_values"


@torch.inference_mode()
def hidden_states(
    model: PreTrainedModel, tokens: torch.Tensor, *, cache: Any = None, use_cache: bool = False
) -> tuple[torch.Tensor, Any]:
    """Final hidden states, after the last layer norm and before the output embedding.

    `tokens`: int64 [B, T] that follow whatever `cache` holds; it is extended in place.
    Negative ones are not read; without a cache, they may stand before others. `use_cache`:
    whether to start the library's own where none is given, which drops what a sliding window has
    passed. Returns [B, T, d] in the model's dtype, and the cache (None where there is none).
    """
    base = model.base_model
    if isinstance(cache, _Reread):
        states, _ = hidden_states(model, cache.extend(tokens))
        return states[:, -tokens.shape[1] :], cache
    closed, places = close_up(tokens)
    arguments = {} if cache is None else {CACHE: cache}
    output = base(
        input_ids=place_ids(model, closed),
        use_cache=use_cache or cache is not None,
        return_dict=True,
        **arguments,
    )
    states = output.last_hidden_state
    return states if places is None else take_places(states, places), getattr(output, CACHE)


@contextmanager
def freeze_weights(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block, no weight of the model needs a gradient."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def set_all(needed: bool) -> None:
        with torch.inference_mode():  # offloaded parameters may have been made in it
            for name in learning:  # and are other objects after a pass
                model.get_parameter(name).requires_grad_(needed)

    set_all(False)
    try:
        yield
    finally:
        set_all(True)


def read_limits(model: PreTrainedModel) -> tuple[int, int | None]:
    """The size of the vocabulary, and the longest context in tokens, None if it has no end."""
    return model.config.vocab_size, getattr(model.config, "max_position_embeddings", None)


def whole_cache(model: PreTrainedModel, *, ragged: bool = False) -> Any:
    """An empty cache that keeps every token, so that a pass can be taken up anywhere in it.

    For rows that are `ragged` (some begin with `NOTHING`), it holds the tokens themselves, and they
    are read again each time.
    """
    return _Reread() if ragged else DynamicCache()


def cut_back(cache: Any, rows: torch.Tensor, length: int) -> None:
    """Leaves the first `length` tokens of some rows of a `whole_cache`. `rows`: int64 indices."""
    if isinstance(cache, _Reread):
        cache.tokens = cache.tokens[rows, :length]
        return
    for layer in cache.layers:
        if isinstance(getattr(layer, "keys", None), torch.Tensor):  # a block may keep nothing
            layer.keys = layer.keys[rows, :, :length]
            layer.values = layer.values[rows, :, :length]


class _Reread:
    """Stands for a cache: the tokens so far, int64 [B, T]."""

    def __init__(self) -> None:
        self.tokens = torch.empty(0, 0, dtype=torch.int64)

    def extend(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens = torch.cat([self.tokens, tokens], dim=1) if self.tokens.numel() else tokens
        return self.tokens

    def reorder_cache(self, rows: torch.Tensor) -> None:
        self.tokens = self.tokens[rows]


def head_of(model: PreTrainedModel) -> Head:
    """The output embedding, and what the model makes of it: hidden states [..., d] -> logits
    [..., V]."""
    embedding: Any = cast(Any, model).get_output_embeddings()
    if embedding is None:
        raise UnsupportedError("the model has no output embedding", where=model.config.model_type)
    config = model.config.to_dict()
    factor = _find_factor(config)
    cap = config.get("final_logit_softcapping")

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = embedding(hidden.to(embedding.weight.device))
        if factor is not None:
            logits = logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return head


def _find_factor(config: dict[str, Any]) -> float | None:
    """What the model multiplies the output of its embedding by."""
    if "logits_scaling" in config:  # granite divides
        return 1 / float(config["logits_scaling"])
    return config.get("logit_scale")  # cohere


@torch.inference_mode()
def check_head(model: PreTrainedModel) -> None:
    """Raises `UnsupportedError` unless logits are the output embedding of the hidden states.

    They may be scaled and capped as config.json says. To measure any other model by its
    parts would be wrong.
    """
    tokens = torch.arange(4).unsqueeze(0)
    hidden, _ = hidden_states(model, tokens)
    ours = head_of(model)(hidden[:, -1]).float()
    theirs = model(input_ids=tokens.to(hidden.device), use_cache=False).logits[:, -1].float()
    scale = max(1.0, float(theirs.abs().max()))
    close = torch.isclose(ours, theirs.to(ours.device), rtol=0.0, atol=0.02 * scale, equal_nan=True)
    if not close.all():
        raise UnsupportedError(
            "the model's logits are not its output embedding of its hidden states",
            where=model.config.model_type,
        )


def cache_bytes(cache: Any) -> int:
    """Bytes of the tensors that a key/value cache holds."""
    held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(t.numel() * t.element_size() for t in held if isinstance(t, torch.Tensor))
