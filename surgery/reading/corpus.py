"""Streams a corpus of any size as token windows. Files are read in pieces, never whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import SamplesError
from surgery.reading.rows import propose_column, read_rows
from surgery.reading.sources import TextOrTable, find_sources
from surgery.untrusted import reraise_as

Tokens = npt.NDArray[np.int32]
NOTHING = -1
"""Stands in a row of tokens after its last one, if other rows are longer. Models read it as some
token, and nothing that it predicts counts."""
_PIECE = 2**20
"""Bytes of a text file to tokenize at a time."""
_PROBE = "text"
_SHORT = 2**14
"""Bytes to read at a time for a passage of a text."""


def close_up(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Rows, int32 [B, T], with their negative tokens at the end, where no other token sees them."""
    none = rows < 0
    if not (none[:, :-1] & ~none[:, 1:]).any():
        return rows
    return np.take_along_axis(rows, none.argsort(axis=1, kind="stable"), axis=1)


@dataclass(frozen=True, order=True)
class Place:
    """Where a window is: number of the file, of the document in it, of the token in that."""

    file: int
    document: int
    position: int


@dataclass(frozen=True)
class Window:
    """int32 [T] tokens and where they are."""

    place: Place
    tokens: Tokens


Corpus = tuple[TextOrTable, ...]
"""Files and data sets, in reading order."""


def open_corpus(sources: Sequence[str | Path]) -> Corpus:
    """Finds the files of a corpus, and reads the beginning of each of `sources`.

    A table has one document per row, in the column you name or else in `text`. Any other file is
    one document. `sources`: as for `surgery.reading.sources.find_sources`.
    """
    files: list[TextOrTable] = []
    for named in sources:
        found = find_sources(named)
        first = next((pieces for file in found for pieces in read_documents(file)), iter(()))
        next(first, None)  # to refuse what is not text before any work
        files += found
    return tuple(files)


def read_windows(
    corpus: Corpus,
    tokenizer: Any,
    length: int,
    stride: int,
    *,
    after: Place | None = None,
    tokens_read: Callable[[int], None] = lambda number: None,
) -> Iterator[Window]:
    """Yields windows of `length` tokens at multiples of `stride` in each document, in order.

    Each window begins with the tokenizer's opening tokens, which count toward `length`; its place
    is that of the first token after them. A text file is tokenized in pieces of about a million
    bytes that end with a line. Leaves out a document's last incomplete window. `after`: yields
    only what follows that place, without tokenizing earlier documents again. `tokens_read`: called
    with the number of tokens read.

    Raises `SamplesError` if the opening tokens fill the window.
    """
    after, opening = after or Place(0, 0, -1), find_opening(tokenizer)
    length = leave_room(opening, length)
    for number, path in enumerate(corpus):
        if number < after.file:
            continue
        for index, pieces in enumerate(read_documents(path)):
            if (number, index) < (after.file, after.document):
                continue
            buffer, start, dropped = np.empty(0, dtype=np.int32), 0, 0
            for piece in pieces:
                ids = tokenize(tokenizer, piece)
                tokens_read(len(ids))
                buffer = np.concatenate([buffer, ids])
                while start + length <= dropped + len(buffer):
                    place = Place(number, index, start)
                    if place > after:
                        tokens = buffer[start - dropped : start - dropped + length]
                        yield Window(place, np.concatenate([opening, tokens]))
                    start += stride
                buffer, dropped = buffer[start - dropped :], min(start, dropped + len(buffer))


def read_documents(file: TextOrTable, part: range | None = None) -> Iterator[Iterator[str]]:
    """Yields the documents of a file, each in pieces.

    `part`: only documents, or lines of a text, that begin in it (`rows.measure_extent`).
    """
    if file.text is not None:
        yield iter([file.text])
        return
    if not file.is_table:
        yield _read_text(file, part)
        return
    column = file.column or "text"
    for where, row in read_rows(file, [column], part):
        if not isinstance(text := row.get(column), str):
            lacks = column not in row
            got = "no such column" if lacks else type(text).__name__
            fix = propose_column(file, column) if lacks else None
            raise SamplesError(f"no text in column {column!r}", where=where, got=got, fix=fix)
        yield iter([text])


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """Returns the tokens of a text, int32 [T], without special tokens."""
    with reraise_as(SamplesError, "holds what is no Unicode text", "a passage or text"):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.int32)


def find_opening(tokenizer: Any) -> Tokens:
    """Returns the special tokens that a tokenizer puts before every text, such as <bos>: int32 [T].

    Many tokenizers have none. A model that was always trained with them predicts badly without, so
    every window of text begins with them.
    """
    bare = tokenize(tokenizer, _PROBE).tolist()
    whole = [int(token) for token in tokenizer(_PROBE, verbose=False)["input_ids"]]
    starts = range(len(whole) - len(bare) + 1)
    before = next((at for at in starts if whole[at : at + len(bare)] == bare), 0)
    return np.asarray(whole[:before], dtype=np.int32)


def strip_opening(tokenizer: Any, tokens: Tokens) -> Tokens:
    """Returns tokens [T] without the opening ones, if they begin with them."""
    opening = find_opening(tokenizer)
    begins = np.array_equal(tokens[: len(opening)], opening)
    return tokens[len(opening) :] if begins else tokens


def leave_room(opening: Tokens, length: int) -> int:
    """Returns how many of `length` tokens are left after the opening ones.

    Raises `SamplesError` if none is.
    """
    if length <= len(opening):
        raise SamplesError(
            "no room for text: the tokenizer puts special tokens before it, and they count",
            expected=f"a length of at least {len(opening) + 1} tokens",
            got=length,
        )
    return length - len(opening)


def _read_text(source: TextOrTable, part: range | None) -> Iterator[str]:
    """Reads a text from the first line that begins in `part`; within a line if it is very long."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(), _PIECE if part is None else _SHORT
    with reraise_as(SamplesError, "not UTF-8 text", source.place), source.open() as file:
        if part is not None and part.start > 0:
            file.seek(part.start - 1)
            if not file.readline(size).endswith(b"\n"):
                while file.peek(1)[:1] and file.peek(1)[0] & 0xC0 == 0x80:  # inside a character
                    file.read(1)
        while (left := size if part is None else part.stop - file.tell()) > 0:
            data = file.read(min(size, left) - 1) + file.readline(size)
            if not data:
                return
            yield decoder.decode(data, final=part is None and not file.peek(1))
