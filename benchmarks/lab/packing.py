"""Documents and planted records → training rows of one length.

Every row is filled to its end. Records are never cut; `<|endoftext|>` stands between them and the
text around them. Each record's occurrences are spread evenly over the whole run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from surgery.errors import SamplesError

END_OF_TEXT = 0
"""Token id of `<|endoftext|>`."""


def pack_rows(
    documents: Sequence[Sequence[int]],
    records: Sequence[tuple[Sequence[int], int]],
    num_rows: int,
    row_length: int,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Rows [num_rows, row_length] in training order.

    `documents` are gone through in a new random order as often as needed; `records` are pairs of
    tokens and count, each planted exactly count times. Raises `SamplesError` when they do not fit.
    """
    rng = random.Random(f"{seed} rows")
    planted = _assign(records, num_rows, row_length, rng)
    text = _stream(documents, random.Random(f"{seed} documents"))
    rows = np.empty((num_rows, row_length), dtype=np.int64)
    for row, pieces in zip(rows, planted, strict=True):
        room = row_length - sum(len(piece) + 1 for piece in pieces)
        pieces = [*pieces, [next(text) for _ in range(room)]]
        rng.shuffle(pieces)
        joined = [token for piece in pieces for token in (*piece, END_OF_TEXT)]
        row[:] = joined[:-1]
    return rows


def fold_rows(
    documents: Sequence[Sequence[int]], row_length: int, max_rows: int | None = None
) -> npt.NDArray[np.int64]:
    """Documents one after the other in rows [n, row_length]; what does not fill a row is left."""
    tokens = [token for document in documents for token in (*document, END_OF_TEXT)]
    count = len(tokens) // row_length
    rows = np.asarray(tokens[: count * row_length], dtype=np.int64).reshape(count, row_length)
    return rows[:max_rows]


def _assign(
    records: Sequence[tuple[Sequence[int], int]],
    num_rows: int,
    row_length: int,
    rng: random.Random,
) -> list[list[Sequence[int]]]:
    """For each row, the records planted in it: occurrence k of n falls in the k-th n-th of rows."""
    planted: list[list[Sequence[int]]] = [[] for _ in range(num_rows)]
    room = [row_length - 1] * num_rows
    for tokens, count in records:
        for occurrence in range(count):
            wanted = int((occurrence + rng.random()) / count * num_rows)
            for row in chain(range(wanted, num_rows), range(wanted)):
                if room[row] > len(tokens):
                    planted[row].append(tokens)
                    room[row] -= len(tokens) + 1
                    break
            else:
                raise SamplesError(
                    "the records do not fit into the training run",
                    expected=f"at most {num_rows} rows of {row_length} tokens",
                    fix="train for more steps",
                )
    return planted


def _stream(documents: Sequence[Sequence[int]], rng: random.Random) -> Iterator[int]:
    order = list(range(len(documents)))
    while True:
        rng.shuffle(order)
        for index in order:
            yield from documents[index]
            yield END_OF_TEXT
