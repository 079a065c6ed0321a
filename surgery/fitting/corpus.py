"""A corpus of any size as a stream of token windows: files are read in pieces, never whole."""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from surgery.checkpoint.foreign import as_lines, guard, parse_json, read_lines
from surgery.errors import SamplesError
from surgery.fitting.parquet import parquet_batches
from surgery.hub.datasets import PREFIX, HubDataset
from surgery.hub.finding import shown_name

Tokens = npt.NDArray[np.int32]
Source = Path | HubDataset

TEXT = (".txt", ".md", ".rst", ".py", ".text")
TABLES = (".jsonl", ".jsonl.zst", ".parquet")
_PIECE = 2**20
"""Characters of a text file that are tokenized together."""
_SHORT = 2**14
"""Bytes that are read together where only a passage of a text is wanted."""


@dataclass(frozen=True, order=True)
class Place:
    """Where a window is: the file's number, the document's number in it, the token's in that."""

    file: int
    document: int
    position: int


@dataclass(frozen=True)
class Window:
    """int32 [T] tokens and where they are."""

    place: Place
    tokens: Tokens


@dataclass(frozen=True)
class Corpus:
    """Files and data sets in the order they are read, each with the name it is reported under."""

    files: tuple[Source, ...]
    names: tuple[str, ...]

    @property
    def fingerprint(self) -> list[list[Any]]:
        """Name of every file, and its size in bytes, which of a data set is not known."""
        return [[name, size_of(file)] for name, file in zip(self.names, self.files, strict=True)]


def size_of(file: Source) -> int | None:
    """In bytes; None of a data set on the Hub."""
    return file.stat().st_size if isinstance(file, Path) else None


def open_corpus(sources: Sequence[str | Path]) -> Corpus:
    """Finds the files of a corpus, and reads the beginning of each of `sources`.

    A file is JSON lines (`.jsonl`, `.jsonl.zst`) or `.parquet` with a column `text`, one document
    a row, or else a text that is one document. Of a folder all files in `TEXT` and `TABLES` are
    taken, at any depth, ascending by name. `hf:DATASET:SPLIT:COLUMN` is a data set on the Hub, one
    document a row. Raises `SamplesError` for what is not there, and for a beginning that is
    malformed.
    """
    files: list[Source] = []
    names: list[str] = []
    for source in sources:
        path = Path(source)
        inside: list[Any]
        if str(source).startswith(PREFIX):
            inside = [HubDataset.parse(str(source))]
            names.append(shown_name(source))
        elif path.is_dir():
            inside = sorted(
                f for f in path.rglob("*") if f.is_file() and f.name.endswith(TEXT + TABLES)
            )
            names += [file.relative_to(path).as_posix() for file in inside]
        elif path.is_file():
            inside = [path]
            names.append(path.name)
        else:
            raise SamplesError("no such file or folder", where=path)
        if not inside:
            raise SamplesError("no text in it", where=path, expected=", ".join(TEXT + TABLES))
        first = next((pieces for file in inside for pieces in documents(file)), iter(()))
        next(first, None)  # so that what is no text is known before any work is done
        files += inside
    return Corpus(tuple(files), tuple(names))


def windows(
    corpus: Corpus,
    tokenizer: Any,
    length: int,
    stride: int,
    *,
    after: Place | None = None,
    tokens_read: Callable[[int], None] = lambda number: None,
) -> Iterator[Window]:
    """Windows of `length` tokens at multiples of `stride` in every document, in order.

    Documents are tokenized without special tokens; a text file in pieces of about a million
    characters that end with a line. A document's last incomplete window is left out. With `after`
    only what follows that place is given, and earlier documents are not tokenized again.
    `tokens_read` is told how many tokens were read.
    """
    for number, path in enumerate(corpus.files):
        if after is not None and number < after.file:
            continue
        for index, pieces in enumerate(documents(path)):
            if after is not None and (number, index) < (after.file, after.document):
                continue
            buffer, start, dropped = np.empty(0, dtype=np.int32), 0, 0
            for piece in pieces:
                ids = token_ids(tokenizer, piece)
                tokens_read(len(ids))
                buffer = np.concatenate([buffer, ids])
                while start + length <= dropped + len(buffer):
                    place = Place(number, index, start)
                    if after is None or place > after:
                        yield Window(place, buffer[start - dropped : start - dropped + length])
                    start += stride
                buffer, dropped = buffer[start - dropped :], min(start, dropped + len(buffer))


def documents(file: Source, part: range | None = None) -> Iterator[Iterator[str]]:
    """The documents of one file, each in pieces. Raises `SamplesError` for a malformed file.

    `part`: those that begin within it, bytes of the file or row groups of a parquet file, and of a
    text its lines. Compressed lines and data sets have no parts.
    """
    if isinstance(file, HubDataset):
        yield from (iter([text]) for text in file.texts())
    elif file.name.endswith(".parquet"):
        yield from _parquet(file, part)
    elif file.name.endswith(TABLES):
        yield from _json_lines(file, part)
    elif part is None:
        yield _text(file)
    else:
        yield _lines(file, part)


def extent(path: Source) -> int:
    """What `range`s of `documents` lie in: bytes, or row groups; 0 where there are no parts."""
    if isinstance(path, HubDataset) or path.name.endswith(".zst"):
        return 0
    if path.name.endswith(".parquet"):
        import pyarrow.parquet

        with guard(SamplesError, "not parquet with a column text", path):
            return int(pyarrow.parquet.read_metadata(path).num_row_groups)
    return path.stat().st_size


def token_ids(tokenizer: Any, text: str) -> Tokens:
    """int32 [T]: the tokens of a text alone, without special tokens."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return np.asarray(ids, dtype=np.int32)


class _Document(BaseModel):
    text: str


def _text(path: Path) -> Iterator[str]:
    with (
        guard(SamplesError, "not UTF-8 text", path),
        path.open(encoding="utf-8", newline="") as file,
    ):
        while piece := file.read(_PIECE):
            yield piece + file.readline(_PIECE)


def _lines(path: Path, part: range) -> Iterator[str]:
    """A text from the first line that begins in `part`, or from there where lines are very long."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with guard(SamplesError, "not UTF-8 text", path), path.open("rb") as file:
        if part.start > 0:
            file.seek(part.start - 1)
            if not file.readline(_SHORT).endswith(b"\n"):
                while file.peek(1)[:1] and file.peek(1)[0] & 0xC0 == 0x80:  # within a character
                    file.read(1)
        while (left := part.stop - file.tell()) > 0:
            if not (data := file.read(min(_SHORT, left) - 1) + file.readline(_SHORT)):
                return
            yield decoder.decode(data)


def _json_lines(path: Path, part: range | None) -> Iterator[Iterator[str]]:
    if path.suffix == ".zst":
        import pyarrow  # tells a frame that was only half written, and goes on after one that ends

        file = io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    else:
        file = path.open("rb")
    with file:
        place: object = path
        if part is not None and part.start > 0:
            place = f"{path} from byte {part.start:,} on,"
            file.seek(part.start - 1)
            while (rest := file.readline(_PIECE)) and not rest.endswith(b"\n"):
                pass
        if part is not None and file.tell() >= part.stop:
            return
        for where, line in read_lines(file, place, SamplesError):
            with guard(SamplesError, "not JSON lines with a text", where, as_lines(line)):
                text = _Document.model_validate(parse_json(line)).text
            yield iter([text])
            if part is not None and file.tell() >= part.stop:
                return


def _parquet(path: Path, part: range | None) -> Iterator[Iterator[str]]:
    with guard(SamplesError, "not parquet with a column text", path):
        for batch in parquet_batches(path, ["text"], part):
            for row in batch.to_pylist():
                yield iter([_Document.model_validate(row).text])
