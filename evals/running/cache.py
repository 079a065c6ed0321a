"""A key/value cache whose rows are rewritten from any position on, in place.

The library's own cache grows by copying all of it for every token. Here the keys and values of a
finished pass are kept, and decoding overwrites them where it leaves the pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer


class _RewritableLayer(DynamicLayer):
    """Keys and values [B, heads, T, size]; what is read is the first rows and tokens of them."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all_keys, self.all_values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.rewind(keys.shape[0], keys.shape[2])

    def rewind(self, rows: int, length: int) -> None:
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


def rewritable(cache: Any, rows: torch.Tensor) -> Any:
    """A new cache of `rows` (int64 [K]) of `cache`, in that order. `cache` stays as it is.

    It never grows beyond the tokens that `cache` holds.
    """
    rewritten = copy.copy(cache)
    rewritten.layers = [
        _RewritableLayer(layer.keys[rows], layer.values[rows])
        if isinstance(getattr(layer, "keys", None), torch.Tensor)
        else copy.copy(layer)  # a block that keeps nothing
        for layer in cache.layers
    ]
    return rewritten


def rewind(cache: Any, rows: int, length: int) -> None:
    """Lets a rewritable cache hold its first `rows` rows and `length` tokens, in place."""
    for layer in cache.layers:
        if isinstance(layer, _RewritableLayer):
            layer.rewind(rows, length)
