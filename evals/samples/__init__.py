"""Samples: the passages of a memorization test, read from any form they are published in."""

from __future__ import annotations

from evals.samples.loading import Passages, load_samples, open_samples
from evals.samples.record import (
    RowNote,
    Samples,
    Tokens,
    describe_samples,
    hash_row,
    list_row_warnings,
)

__all__ = [
    "Passages",
    "RowNote",
    "Samples",
    "Tokens",
    "describe_samples",
    "hash_row",
    "list_row_warnings",
    "load_samples",
    "open_samples",
]
