"""Chooses how many rows go through the model together: as many as fit and help."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from evals.run.keep import Store
from surgery.errors import MeasurementError
from surgery.families import family_of
from surgery.processes import current_processes, share_free_memory

_MOST_TOKENS = {"cpu": 8_192, "cuda": 65_536, "meta": 65_536}
"""More tokens at a time only need more memory and make no pass faster. What a model without weights
is asked for will run on a GPU."""
_SHARE_OF_MEMORY = 0.5


def rows_per_batch(model: PreTrainedModel, length: int, free: int | None = None) -> int:
    """A power of two: as many rows of `length` tokens as fit in half of the `free` memory, in bytes
    (by default, what is free now).

    The current processes share the memory: each must call this.
    """
    return _rows_that_fit(model, length, share_free_memory(model.device) if free is None else free)


_WIDEST = 4
"""How many times as wide as the model its MLPs are, about."""


def keep_rows_per_batch(store: Store, model: PreTrainedModel, length: int) -> int:
    """The same of work that goes on: as many rows as its earlier part had. `store`: of work on the
    model."""
    key = ("rows per batch", length, current_processes().count)
    return store.get(key, lambda: rows_per_batch(model, length))


def _rows_that_fit(model: PreTrainedModel, length: int, free: int) -> int:
    """Rows are counted at what a pass with a cache holds: keys and values of every block, the
    intermediate activations of one, and its attention scores in float32.
    """
    config, device = model.config.to_dict(), model.device
    size = family_of(config).dimensions(config)
    item = torch.finfo(model.dtype).bits // 8
    shared = 2 * size.num_groups * size.head_size  # keys and values
    inner = (5 + 2 * _WIDEST) * size.d + size.context + shared
    scores = 8 * size.num_heads * length  # one float32, and one for its softmax
    row = length * ((size.num_blocks * shared + inner) * item + scores)
    most = _MOST_TOKENS.get(device.type, _MOST_TOKENS["cpu"]) // length
    fitting = max(1, min(most, int(_SHARE_OF_MEMORY * free) // row))
    return 1 << (fitting.bit_length() - 1)


def row_ranges(rows: int, batch_size: int) -> Sequence[slice]:
    """Consecutive rows, `batch_size` at a time; the last batch may be smaller."""
    if batch_size < 1:
        raise MeasurementError("wrong batch size", expected="at least 1 row", got=batch_size)
    return [slice(start, start + batch_size) for start in range(0, rows, batch_size)]
