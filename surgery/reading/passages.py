"""Passages from all over a corpus of any size, without reading it whole.

A large file gives passages at places that are spread evenly over it, each moved by a random number
that is always the same: bytes of text and JSON lines, row groups of parquet. What is compressed,
CSV, or a JSON array is read from its start on, and so is a small file. What is read is what is
needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from surgery.reading.corpus import Corpus, read_documents
from surgery.reading.rows import measure_extent
from surgery.reading.sources import TextOrTable

Documents = Callable[[], Iterator[Iterator[str]]]
"""Documents, each in pieces, from a place in a file on; anew at every call."""
T = TypeVar("T")

SPACING = 1 << 16
"""Bytes from one passage of a file to the next, at least; row groups lie as they lie."""
_MOST_TEXT = 1 << 21
"""Characters of `read_texts`: 256 windows of 2,048 tokens, at four characters a token."""
_PASSAGE = 1 << 14
"""Characters of one passage of `read_texts`."""


def spread_passages(file: TextOrTable, most: int, number: int) -> list[Documents]:
    """Up to `most` places in a file to read from, ascending. `number`: the file's, as a seed."""
    unit = 1 if file.form == ".parquet" else SPACING
    size = measure_extent(file)
    if size < 2 * unit:
        return [partial(read_documents, file)]
    count = min(most, size // unit)
    moved = np.random.default_rng([0, number]).random(count)
    ends = [size * k // count for k in range(count + 1)]
    return [
        partial(read_documents, file, range(begin + int(share * (end - begin - unit + 1)), end))
        for begin, end, share in zip(ends[:-1], ends[1:], moved, strict=True)
    ]


def share_evenly(
    sources: Sequence[Callable[[int], Iterator[T]]],
    most: int,
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """As much of every source as of the others, while they last; about `most` in all.

    A source is told its share, and no more is taken of it.
    """
    left = most
    for number, source in enumerate(sources):
        if left <= 0:
            return
        share = max(1, left // (len(sources) - number))
        for item in source(share):
            yield item
            share -= size(item)
            left -= size(item)
            if share <= 0:
                break


def scatter(items: Sequence[T]) -> list[T]:
    """In an order in which the first few are from all over: by their numbers' bits reversed."""
    return [items[i] for i in sorted(range(len(items)), key=lambda i: f"{i:064b}"[::-1])]


def read_texts(corpus: Corpus, most: int = _MOST_TEXT) -> list[str]:
    """About `most` characters of a corpus, as much of every file as of the others.

    A file that is no longer than its share is one text; of others every passage is one.
    """

    def of_file(number: int, file: TextOrTable, share: int) -> Iterator[str]:
        places: Sequence[Documents] = [partial(read_documents, file)]
        if (file.size or 0) > share:
            places = spread_passages(file, max(1, share // _PASSAGE), number)
        return share_evenly([partial(_read_text, place) for place in places], share, len)

    files = [partial(of_file, number, file) for number, file in enumerate(corpus.files)]
    if len(files) > most // _PASSAGE:
        files = scatter(files)
    return list(share_evenly(files, most, len))


def _read_text(place: Documents, most: int) -> Iterator[str]:
    pieces: list[str] = []
    for piece in (piece for document in place() for piece in document):
        pieces.append(piece[:most])
        most -= len(piece)
        if most <= 0:
            break
    yield "".join(pieces)
