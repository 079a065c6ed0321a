"""Finds the text or tables you name: a file, a folder of files, or a data set on the Hub."""

from __future__ import annotations

import io
import os
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from surgery.errors import SamplesError
from surgery.hub.datasets import PREFIX, HubDataset
from surgery.privacy import expand_home, make_public_name
from surgery.untrusted import reraise_as

TEXT = (".txt", ".md", ".rst", ".py", ".text")
TABLES = (".jsonl", ".csv", ".tsv", ".parquet")
JSON = (".jsonl", ".json")
PACKED = {".zst": "zstd", ".gz": "gzip"}


@dataclass(frozen=True)
class TextOrTable:
    """A file or a data set. Reports call it `name`. Its passages are in `column`.

    `text`: the text itself, if it is not a file.
    """

    place: Path | HubDataset
    name: str = ""
    column: str | None = None
    text: str | None = None

    @property
    def full_name(self) -> str:
        """With the column of a file, as an option names it."""
        is_column = self.column is not None and isinstance(self.place, Path)
        return f"{self.name}:{self.column}" if is_column else self.name

    @property
    def form(self) -> str:
        """The file extension of its format, in lower case, without that of a compression."""
        if isinstance(self.place, HubDataset):
            return ""
        return (Path(self.place.stem) if self.is_packed else self.place).suffix.lower()

    @property
    def is_packed(self) -> bool:
        return isinstance(self.place, Path) and self.place.suffix.lower() in PACKED

    @property
    def is_table(self) -> bool:
        """Whether it has rows. Otherwise it is one document."""
        return isinstance(self.place, HubDataset) or self.form in (*TABLES, *JSON)

    @property
    def size(self) -> int | None:
        """In bytes; None if it is not a file."""
        return self._state and self._state.st_size

    @property
    def changed(self) -> int | None:
        """When it was written, in nanoseconds; None if it is not a file."""
        return self._state and self._state.st_mtime_ns

    @property
    def _state(self) -> os.stat_result | None:
        is_file = isinstance(self.place, Path) and self.text is None
        return self.place.stat() if is_file else None  # type: ignore[union-attr]

    def open(self) -> io.BufferedReader:
        """Opens a file, after its byte order mark. Its bytes are unpacked while you read."""
        assert isinstance(self.place, Path)
        with reraise_as(SamplesError, "cannot be read", self.place):
            if self.is_packed:
                import pyarrow  # notices truncated frames and reads several in a row

                packing = PACKED[self.place.suffix.lower()]
                file = io.BufferedReader(pyarrow.input_stream(str(self.place), compression=packing))
            else:
                file = self.place.open("rb")
            if file.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
                file.read(len(BOM_UTF8))
        return file


def _split_column(name: str) -> tuple[Path, str | None]:
    """The file or folder of a name, and its column. Both may hold colons; what exists decides."""
    head, tail = name, ""
    while head and not _exists(Path(head)):
        head, colon, last = head.rpartition(":")
        tail = f"{last}:{tail}" if tail else last
        if not colon:
            break
    return (Path(head), tail) if head and tail and _exists(Path(head)) else (Path(name), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is too long
        return False


def find_sources(named: str | Path, forms: Sequence[str] = TEXT + TABLES) -> list[TextOrTable]:
    """Returns the files or the data set that `named` stands for.

    It is a file; a folder, meaning all files of `forms` in it at any depth, compressed or not, by
    name; either of these with `:COLUMN` after it; or `hf:DATASET:SPLIT:COLUMN`. A dot in a column
    leads into a nested one.
    """
    name = str(named)
    if name.startswith(PREFIX):
        dataset = HubDataset.parse(name)
        return [TextOrTable(dataset, make_public_name(name), dataset.column)]
    path, column = _split_column(str(expand_home(name)))
    if path.is_file():
        return [TextOrTable(path, path.name, column)]
    if not path.is_dir():
        raise SamplesError("no such file or folder", where=path)
    files = (TextOrTable(f, f.relative_to(path).as_posix(), column) for f in path.rglob("*"))
    found = [file for file in files if file.form in forms and file.place.is_file()]  # type: ignore[union-attr]
    if not found:
        raise SamplesError("holds no text files", where=path, expected=", ".join(forms))
    return sorted(found, key=lambda file: file.place)  # type: ignore[arg-type, return-value]
