"""Passages, held-out windows, and halves of both, read from any form they are published in."""

from __future__ import annotations

from evals.data.loading import Passages, load_samples, open_samples
from evals.data.samples import (
    RowNote,
    Samples,
    Tokens,
    count_longer,
    describe_samples,
    hash_row,
    list_row_warnings,
)

__all__ = [
    "Passages",
    "RowNote",
    "Samples",
    "Tokens",
    "count_longer",
    "describe_samples",
    "hash_row",
    "list_row_warnings",
    "load_samples",
    "open_samples",
]
