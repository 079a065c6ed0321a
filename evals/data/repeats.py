"""Finds rows that are not independent: merges equal ones, and notes windows that overlap.

A passage tested 200 times is no more evidence than one test, so it must not count 200 times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.data.samples import RowNote, Samples, Tokens

Flags = npt.NDArray[np.bool_]

LEAST = 16
"""The fewest tokens of an overlap."""
MOST_OPENING = 2
"""Special tokens that a tokenizer puts before every text: <bos>, or [gMASK]<sop>."""
_BASE = np.uint64(0x9E3779B97F4A7C15)

MERGED = "its tokens equal an earlier row's, so the two count as one passage"
OVERLAPS = "it overlaps another row, so intervals, which assume independent rows, are too narrow"


def merge_equal_rows(samples: Samples) -> Samples:
    """Merges equal rows, adds their counts, and notes what it merged and which rows overlap.

    A merged row is a member if any of the equal rows is one.
    """
    _, firsts, groups = np.unique(samples.tokens, axis=0, return_index=True, return_inverse=True)
    first = firsts[groups.ravel()]  # of the rows that equal each row
    kept = first == np.arange(len(samples))
    counts, members, rest = samples.counts, samples.members, samples.untested
    found = replace(
        samples.select(kept),
        counts=None if counts is None else _join(np.add, counts, first)[kept],
        members=None if members is None else _join(np.logical_or, members, first)[kept],
        untested=None if rest is None else _join(np.maximum, rest, first)[kept],
    )
    merged = [RowNote(samples.ids[row], MERGED, kept=False) for row in np.flatnonzero(~kept)]
    overlaps = np.flatnonzero(find_overlaps(found.tokens))
    overlap = [RowNote(found.ids[row], OVERLAPS, kept=True) for row in overlaps]
    return replace(found, notes=(*samples.notes, *merged, *overlap))


def _join(how: np.ufunc, column: npt.NDArray[Any], first: npt.NDArray[np.int64]) -> Any:
    joined = np.zeros_like(column)
    how.at(joined, first, column)
    return joined


def find_overlaps(tokens: Tokens, others: Tokens | None = None) -> Flags:
    """Finds rows that equal one of `others` or overlap it: one ends as the other begins, or both
    end alike, in half of their tokens or more.

    int32 [N, T] and [M, T] -> bool [N]. An overlap has at least `LEAST` tokens. Without `others`,
    finds rows that overlap a different row of `tokens`. Tokens that open every row, such as <bos>,
    hide no overlap behind them.
    """
    both = tokens if others is None else np.concatenate([tokens, others])
    opening = _count_opening(both)
    if 0 < opening <= tokens.shape[1] - LEAST:
        cut = None if others is None else others[:, opening:]
        return _find_overlaps(tokens, others) | _find_overlaps(tokens[:, opening:], cut)
    return _find_overlaps(tokens, others)


def _count_opening(rows: Tokens) -> int:
    """How many tokens, at most `MOST_OPENING`, all rows begin with."""
    some = rows[:, :MOST_OPENING]
    return int(np.cumprod((some == some[:1]).all(axis=0)).sum())


def _find_overlaps(tokens: Tokens, others: Tokens | None) -> Flags:
    found = np.zeros(len(tokens), dtype=np.bool_)
    beside = tokens if others is None else others
    parts = zip(_hash_parts(tokens), _hash_parts(beside), strict=True)
    for dropped, ((begins, ends), (begin, end)) in enumerate(parts):
        here = np.isin(ends, begin) | np.isin(begins, end)
        found |= here & (begins != ends) if others is None else here
        if 2 * dropped <= tokens.shape[1]:
            found |= _repeat(ends) if others is None else np.isin(ends, end)
    return found


def _repeat(values: npt.NDArray[np.uint64]) -> Flags:
    """Whether each value stands there more than once."""
    _, places, number = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(number[places.ravel()] > 1)


def _hash_parts(tokens: Tokens) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """Hashes of each row's beginning and end, from the whole row down to `LEAST` tokens.

    Equal tokens give equal hashes at one length: Σ token · base^place, modulo 2^64.
    """
    length = tokens.shape[1]
    powers = np.cumprod(np.r_[np.uint64(1), np.full(length - 1, _BASE)], dtype=np.uint64)
    sums = np.cumsum(tokens.astype(np.uint64) * powers, axis=1, dtype=np.uint64)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    for dropped in range(max(1, length - LEAST + 1)):
        yield sums[:, length - dropped] * powers[dropped], sums[:, -1] - sums[:, dropped]
