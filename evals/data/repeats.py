"""Finds rows that are not independent: merges equal ones, and groups windows that overlap.

A passage tested 200 times is no more evidence than one test, so it must not count 200 times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.data.samples import RowNote, Samples, Tokens, measure_lengths
from surgery.reading.corpus import close_up

Flags = npt.NDArray[np.bool_]

LEAST = 16
"""The fewest tokens of an overlap."""
MOST_OPENING = 2
"""Special tokens that a tokenizer puts before every text: <bos>, or [gMASK]<sop>."""
AROUND = 8
"""Tokens before a secret by which its place is known in other text."""
_BASE = np.uint64(0x9E3779B97F4A7C15)
_SEED = 0

MERGED = "its tokens equal an earlier row's, so the two count as one passage"
OVERLAPS = (
    "it overlaps another row, so the two count as one for a limit, and intervals, which assume "
    "independent rows, are too narrow"
)


def merge_equal_rows(samples: Samples) -> Samples:
    """Merges equal rows, adds their counts, and notes what it merged and which rows overlap.

    A merged row is a member if any of the equal rows is one.
    """
    _, firsts, groups = np.unique(samples.tokens, axis=0, return_index=True, return_inverse=True)
    first = firsts[groups.ravel()]  # of the rows that equal each row
    kept = first == np.arange(len(samples))
    counts, members = samples.counts, samples.members
    found = replace(
        samples.select(kept),
        counts=None if counts is None else _join(np.add, counts, first)[kept],
        members=None if members is None else _join(np.logical_or, members, first)[kept],
        after=None if samples.after is None else _keep_longest(samples.after, first, kept),
    )
    merged = [RowNote(samples.ids[row], MERGED, kept=False) for row in np.flatnonzero(~kept)]
    found = replace(found, groups=(groups := group_repeats(found)))
    overlaps = np.flatnonzero(np.bincount(groups)[groups] > 1)
    overlap = [RowNote(found.ids[row], OVERLAPS, kept=True) for row in overlaps]
    return replace(found, notes=(*samples.notes, *merged, *overlap))


def _keep_longest(
    after: tuple[Tokens, ...], first: npt.NDArray[np.int64], kept: Flags
) -> tuple[Tokens, ...]:
    """Of equal rows, what stands after the one that goes on longest."""
    longest = list(after)
    for row, place in enumerate(first.tolist()):
        longest[place] = max(longest[place], after[row], key=len)
    return tuple(longest[place] for place in np.flatnonzero(kept))


def _join(how: np.ufunc, column: npt.NDArray[Any], first: npt.NDArray[np.int64]) -> Any:
    joined = np.zeros_like(column)
    how.at(joined, first, column)
    return joined


def find_repeats(samples: Samples, others: Samples | Tokens) -> Flags:
    """Finds passages of which `others` tell, which are passages or text, int32 [M, T]: bool [N].

    Those that overlap one, as in `find_overlaps`. But of marked secrets, those that are a secret
    of `others`, too, or stand in them with the `AROUND` tokens before: all else of two letters may
    be alike, and they tell nothing of each other's secrets.
    """
    rows = others.tokens if isinstance(others, Samples) else others
    if not samples.secrets:
        return find_overlaps(samples.tokens, rows)
    found = np.zeros(len(samples), dtype=np.bool_)
    if isinstance(others, Samples):
        known = {tuple(secret) for secret in others.suffix_rows}
        found |= [tuple(secret) in known for secret in samples.suffix_rows]
    for mine, runs, others_runs, _ in _list_runs(samples, rows):
        found[mine] |= np.isin(runs, others_runs)
    return found


def group_repeats(samples: Samples) -> npt.NDArray[np.int64]:
    """Numbers the groups of passages that tell of each other, as in `find_repeats`, or do so in a
    chain: int64 [N]. A passage that tells of no other is a group of its own."""
    if not samples.secrets:
        return group_overlaps(samples.tokens)
    _, alike = np.unique(samples.suffixes, axis=0, return_inverse=True)
    links = [_link(alike.ravel(), alike.ravel())]
    for mine, runs, others_runs, rows in _list_runs(samples, samples.tokens):
        known, firsts = np.unique(runs, return_index=True)
        at = np.minimum(np.searchsorted(known, others_runs), len(known) - 1)
        same = known[at] == others_runs
        links.append(np.stack([rows[same], mine[firsts[at[same]]]]))
    return _number_groups(links, len(samples))


def _list_runs(samples: Samples, rows: Tokens) -> Iterator[tuple[Any, Any, Any, Any]]:
    """For each length of a secret with what stands before it: the passages that have it, their
    hashes, and those of all runs of so many tokens in `rows`, each with the number of its row."""
    ends = measure_lengths(samples.suffixes)
    sizes = ends + np.minimum(measure_lengths(samples.prefixes), AROUND)
    last, rows = samples.prefix_length + ends, close_up(rows)
    for size in np.unique(sizes).tolist():
        mine = np.flatnonzero(sizes == size)
        if size <= rows.shape[1]:
            own = np.stack([samples.tokens[row, last[row] - size : last[row]] for row in mine])
            runs = hash_runs(rows, size)
            numbers = np.repeat(np.arange(len(rows)), runs.shape[1])
            yield mine, hash_runs(own, size)[:, 0], runs.ravel(), numbers


def hash_runs(tokens: Tokens, size: int) -> npt.NDArray[np.uint64]:
    """Hashes every `size` tokens in a row: [N, T] → [N, T - size + 1]."""
    powers = np.cumprod(np.full(size, _BASE), dtype=np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), size, axis=1)
    return np.asarray(runs @ powers)


def find_overlaps(tokens: Tokens, others: Tokens) -> Flags:
    """Finds rows that equal one of `others` or overlap it: one ends as the other begins, or both
    begin or end alike, in half of their tokens or more.

    int32 [N, T] and [M, T] -> bool [N]. An overlap has at least `LEAST` tokens. Tokens that open
    every row, such as <bos>, hide no overlap behind them.
    """
    found = np.zeros(len(tokens), dtype=np.bool_)
    every = close_up(np.concatenate([tokens, others]))
    for opening in _find_openings(every):
        for dropped, parts in enumerate(_hash_parts(every[:, opening:])):
            (begins, begin), (ends, end) = (np.split(part, [len(tokens)]) for part in parts)
            found |= np.isin(ends, begin) | np.isin(begins, end)
            if 2 * dropped <= tokens.shape[1] - opening:
                found |= np.isin(begins, begin) | np.isin(ends, end)
    return found


def group_overlaps(tokens: Tokens) -> npt.NDArray[np.int64]:
    """Numbers the groups of rows that overlap each other, as in `find_overlaps`, or do so in a
    chain. int32 [N, T] -> int64 [N]. A row that overlaps no other is a group of its own.
    """
    links, tokens = [np.empty((2, 0), dtype=np.int64)], close_up(tokens)
    for opening in _find_openings(tokens):
        for dropped, (begins, ends) in enumerate(_hash_parts(tokens[:, opening:])):
            links += [_link(begins, ends), _link(ends, begins)]
            if 2 * dropped <= tokens.shape[1] - opening:
                links += [_link(begins, begins), _link(ends, ends)]
    return _number_groups(links, len(tokens))


def _number_groups(links: Sequence[npt.NDArray[np.int64]], n: int) -> npt.NDArray[np.int64]:
    """Numbers the groups of n rows that are linked, two by two, in arrays [2, L]: [n]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(len(one), dtype=np.bool_), (one, other)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _link(values: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Rows whose value is one of `others`, and the first row that has it there: [2, L]."""
    found, firsts = np.unique(others, return_index=True)
    at = np.minimum(np.searchsorted(found, values), len(found) - 1)
    rows = np.flatnonzero((found[at] == values) & (firsts[at] != np.arange(len(values))))
    return np.stack([rows, firsts[at[rows]]])


def _find_openings(rows: Tokens) -> tuple[int, ...]:
    """How many first tokens to leave out: none, and those that open all rows, if enough follow."""
    opening = count_opening(rows)
    return (0, opening) if 0 < opening <= rows.shape[1] - LEAST else (0,)


def count_opening(rows: Tokens) -> int:
    """How many tokens, at most `MOST_OPENING`, all rows begin with."""
    some = rows[:, :MOST_OPENING]
    return int(np.cumprod((some == some[:1]).all(axis=0)).sum())


def _hash_parts(tokens: Tokens) -> Iterator[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]:
    """Hashes of each row's beginning and end, from the longest row down to `LEAST` tokens, or the
    whole of a shorter row.

    Equal tokens give equal hashes at one length: Σ token · base^place, modulo 2^64. A row without
    an overlap of that length has hashes that equal no other.
    """
    length, lengths, rows = tokens.shape[1], measure_lengths(tokens), np.arange(len(tokens))
    powers = np.cumprod(np.r_[np.uint64(1), np.full(length, _BASE)], dtype=np.uint64)
    sums = np.cumsum(tokens.astype(np.uint64) * powers[:-1], axis=1, dtype=np.uint64)
    sums = np.pad(sums, ((0, 0), (1, 0)))
    alone = np.random.default_rng(_SEED).integers(2**64, size=(2, len(tokens)), dtype=np.uint64)
    least = min(LEAST, int(np.min(lengths, initial=length)))
    for dropped in range(length - least + 1):
        size = length - dropped
        first = np.maximum(lengths - size, 0)  # of the tokens at the end
        begins = sums[:, size] * powers[dropped]
        ends = (sums[rows, lengths] - sums[rows, first]) * powers[dropped - first]
        other = (lengths < size) | (size < LEAST) & (lengths > size)
        yield np.where(other, alone[0], begins), np.where(other, alone[1], ends)
