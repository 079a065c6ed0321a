"""Rows that are not independent: equal ones are merged, windows of one text that overlap are told.

A passage that is tested 200 times says no more than once; counted 200 times, it would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.samples.record import RowNote, Samples, Tokens

Flags = npt.NDArray[np.bool_]

LEAST = 16
"""Tokens that an overlap has at least."""
_BASE = np.uint64(0x9E3779B97F4A7C15)

MERGED = "its tokens equal an earlier row's, so the two count as one passage"
OVERLAPS = "it overlaps another row, so the two are not independent and intervals are too narrow"


def merge_equal_rows(samples: Samples) -> Samples:
    """The different rows, with the counts of equal ones added; what was found is in `notes`.

    A merged row is a member where any of the equal ones is.
    """
    _, firsts, groups = np.unique(samples.tokens, axis=0, return_index=True, return_inverse=True)
    first = firsts[groups.ravel()]  # of the rows that equal each row
    kept = first == np.arange(len(samples))
    counts, members = samples.counts, samples.members
    found = replace(
        samples.select(kept),
        counts=None if counts is None else _joined(np.add, counts, first)[kept],
        members=None if members is None else _joined(np.logical_or, members, first)[kept],
    )
    merged = [RowNote(samples.ids[row], MERGED, kept=False) for row in np.flatnonzero(~kept)]
    overlaps = np.flatnonzero(find_overlaps(found.tokens))
    overlap = [RowNote(found.ids[row], OVERLAPS, kept=True) for row in overlaps]
    return replace(found, notes=(*samples.notes, *merged, *overlap))


def _joined(how: np.ufunc, column: npt.NDArray[Any], first: npt.NDArray[np.int64]) -> Any:
    joined = np.zeros_like(column)
    how.at(joined, first, column)
    return joined


def find_overlaps(tokens: Tokens, others: Tokens | None = None) -> Flags:
    """Which rows equal one of `others`, or overlap it: one of the two ends as the other begins.

    int32 [N, T] and [M, T] -> bool [N]; an overlap has at least `LEAST` tokens. Without `others`:
    which rows overlap a different one of their own.
    """
    found = np.zeros(len(tokens), dtype=np.bool_)
    beside = tokens if others is None else others
    for (begins, ends), (begin, end) in zip(_parts(tokens), _parts(beside), strict=True):
        here = np.isin(ends, begin) | np.isin(begins, end)
        found |= here & (begins != ends) if others is None else here
    return found


def _parts(tokens: Tokens) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """Hashes of the beginning and of the end of each row, from the whole row down to `LEAST`.

    The two of one length are equal where the tokens are: Σ token · base^place, modulo 2^64.
    """
    length = tokens.shape[1]
    powers = np.cumprod(np.r_[np.uint64(1), np.full(length - 1, _BASE)], dtype=np.uint64)
    sums = np.cumsum(tokens.astype(np.uint64) * powers, axis=1, dtype=np.uint64)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    for dropped in range(max(1, length - LEAST + 1)):
        yield sums[:, length - dropped] * powers[dropped], sums[:, -1] - sums[:, dropped]
