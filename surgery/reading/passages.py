"""Reads passages from all over a corpus of any size, without reading all of it.

A large file gives passages at evenly spread places, each moved by a fixed random number: bytes of
text and JSON lines, row groups of parquet. Small files, compressed files, CSV, and JSON arrays are
read from their start. Nothing is read beyond what is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import TypeVar

import numpy as np

from surgery.reading.corpus import Corpus, read_documents
from surgery.reading.rows import measure_extent
from surgery.reading.sources import TextOrTable

Documents = Callable[[], Iterator[Iterator[str]]]
"""Reads documents, each in pieces, from a place in a file, anew at every call."""
T = TypeVar("T")

SPACING = 1 << 16
"""Least bytes from one passage of a file to the next (row groups: one)."""
_MOST_TEXT = 1 << 21
"""Characters of `read_texts`: 256 windows of 2,048 tokens, at four characters a token."""
_PASSAGE = 1 << 14
"""Characters of one passage of `read_texts`."""


def spread_passages(file: TextOrTable, most: int, number: int) -> list[Documents]:
    """Returns up to `most` places to read from, ascending. `number`: the file's, as a seed."""
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
    """Yields about `most` in all, an equal share of each source while it lasts.

    A source is called with its share, and no more is taken from it.
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
    """Reorders items so that the first few are from all over: by their reversed index bits."""
    return [items[i] for i in sorted(range(len(items)), key=lambda i: f"{i:064b}"[::-1])]


def read_texts(corpus: Corpus, most: int = _MOST_TEXT) -> list[str]:
    """Returns about `most` characters of a corpus, an equal share of each file.

    A file no longer than its share is one text. A longer one gives a text for each passage.
    """

    def read_file(number: int, file: TextOrTable, share: int) -> Iterator[str]:
        places: Sequence[Documents] = [partial(read_documents, file)]
        if (file.size or 0) > share:
            places = spread_passages(file, max(1, share // _PASSAGE), number)
        return share_evenly([partial(_read_text, place) for place in places], share, len)

    files = [partial(read_file, number, file) for number, file in enumerate(corpus)]
    if len(files) > most // _PASSAGE:
        files = scatter(files)
    return list(share_evenly(files, most, len))


def _read_text(place: Documents, most: int) -> Iterator[str]:
    pieces: list[str] = []
    apart = chain.from_iterable(chain(["\n\n"], document) for document in place())
    for piece in islice(apart, 1, None):  # no gap before the first
        pieces.append(piece[:most])
        most -= len(piece)
        if most <= 0:
            break
    yield "".join(pieces)
