"""A corpus of any size as a stream of token windows: files are read in pieces, never whole."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import SamplesError

__all__ = ["Corpus", "Place", "Tokens", "Window", "documents", "open_corpus", "windows"]

Tokens = npt.NDArray[np.int32]

TEXT = (".txt", ".md", ".rst", ".py", ".text")
TABLES = (".jsonl", ".jsonl.zst", ".parquet")
_PIECE = 2**20
"""Characters of a text file that are tokenized together."""


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
    """Files in the order they are read, each with the name it is reported under."""

    files: tuple[Path, ...]
    names: tuple[str, ...]

    @property
    def fingerprint(self) -> list[list[Any]]:
        """Name and size in bytes of every file."""
        sizes = (path.stat().st_size for path in self.files)
        return [list(pair) for pair in zip(self.names, sizes, strict=True)]


def open_corpus(paths: Sequence[Path]) -> Corpus:
    """Finds the files of a corpus, and reads the beginning of each of `paths`.

    A file is JSON lines (`.jsonl`, `.jsonl.zst`) or `.parquet` with a column `text`, one document
    a row, or else a text that is one document. Of a folder all files in `TEXT` and `TABLES` are
    taken, at any depth, ascending by name. Raises `SamplesError` for what is not there, and for a
    beginning that is malformed.
    """
    files: list[Path] = []
    names: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                f for f in path.rglob("*") if f.is_file() and f.name.endswith(TEXT + TABLES)
            )
            names += [file.relative_to(path).as_posix() for file in inside]
        elif path.is_file():
            inside = [path]
            names.append(path.name)
        else:
            raise SamplesError("no such file or folder", where=path)
        first = next((pieces for file in inside for pieces in documents(file)), iter(()))
        next(first, None)  # so that what is no text is known before any work is done
        files += inside
    if not files:
        kinds = ", ".join(TEXT + TABLES)
        raise SamplesError("no text in it", where=", ".join(map(str, paths)), expected=kinds)
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
                ids = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
                tokens_read(len(ids))
                buffer = np.concatenate([buffer, np.asarray(ids, dtype=np.int32)])
                while start + length <= dropped + len(buffer):
                    place = Place(number, index, start)
                    if after is None or place > after:
                        yield Window(place, buffer[start - dropped : start - dropped + length])
                    start += stride
                buffer, dropped = buffer[start - dropped :], min(start, dropped + len(buffer))


def documents(path: Path) -> Iterator[Iterator[str]]:
    """The documents of one file, each in pieces. Raises `SamplesError` for a malformed file."""
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
    elif path.name.endswith(TABLES):
        yield from _json_lines(path)
    else:
        yield _text(path)


def _text(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while piece := file.read(_PIECE):
                yield piece + file.readline(_PIECE)
    except UnicodeDecodeError as error:
        raise SamplesError("not UTF-8 text", where=path, got=error.reason) from error


def _json_lines(path: Path) -> Iterator[Iterator[str]]:
    import zstandard

    number = 0
    try:
        with path.open("rb") as raw:
            compressed = path.suffix == ".zst"
            stream = zstandard.ZstdDecompressor().stream_reader(raw) if compressed else raw
            with io.TextIOWrapper(stream, encoding="utf-8") as lines:
                for line in lines:
                    number += 1
                    if line.strip():
                        yield iter([_checked(json.loads(line)["text"])])
    except (ValueError, TypeError, KeyError, zstandard.ZstdError) as error:
        got = f"no {error}" if isinstance(error, KeyError) else error
        raise SamplesError(
            "not JSON lines with a text", where=f"{path} line {number}", got=got
        ) from error


def _parquet(path: Path) -> Iterator[Iterator[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000, columns=["text"]):
                for text in batch.column("text").to_pylist():
                    yield iter([_checked(text)])
    except (OSError, TypeError, KeyError, IndexError, pyarrow.ArrowException) as error:
        raise SamplesError("not parquet with a column text", where=path, got=error) from error


def _checked(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text that is {type(text).__name__}")
    return text
