"""Passages, held-out windows, and halves of both, read from any form they are published in."""

from __future__ import annotations

from evals.data.loading import PassageSource, load_samples, open_samples
from evals.data.samples import (
    NOTHING,
    RowNote,
    Samples,
    Tokens,
    count_longer,
    describe_samples,
    hash_row,
    list_row_warnings,
    measure_lengths,
    say_lengths,
    take_tokens,
)

__all__ = [
    "NOTHING",
    "PassageSource",
    "RowNote",
    "Samples",
    "Tokens",
    "count_longer",
    "describe_samples",
    "hash_row",
    "list_row_warnings",
    "load_samples",
    "measure_lengths",
    "open_samples",
    "say_lengths",
    "take_tokens",
]
