"""Data sets of the Hub, by the name that commands take: `hf:DATASET:SPLIT:COLUMN`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.foreign import guard
from surgery.errors import SamplesError
from surgery.hub.client import hub_answers, offline, quiet_client

PREFIX = "hf:"


@dataclass(frozen=True)
class HubDataset:
    """One split of a data set, and the column that is wanted."""

    name: str
    split: str
    column: str

    @staticmethod
    def parse(source: str) -> HubDataset:
        """Raises `SamplesError` for anything but `hf:DATASET:SPLIT:COLUMN`."""
        parts = source.removeprefix(PREFIX).split(":")
        if len(parts) != 3 or not all(parts):
            raise SamplesError("malformed", where=source, expected=f"{PREFIX}DATASET:SPLIT:COLUMN")
        return HubDataset(*parts)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}:{self.split}:{self.column}"

    def texts(self) -> Iterator[str]:
        """The column's texts as a stream. Raises `SamplesError`."""
        with self._reading() as datasets:
            for row in datasets.load_dataset(self.name, split=self.split, streaming=True):
                if not isinstance(row.get(self.column), str):
                    names = ", ".join(row)
                    raise SamplesError("no such column of text", where=self, expected=names)
                yield row[self.column]

    def load(self) -> Any:
        """The split as a whole, with its column. Raises `SamplesError`."""
        with self._reading() as datasets:
            data = datasets.load_dataset(self.name, split=self.split)
        if self.column not in data.column_names:
            names = ", ".join(data.column_names)
            raise SamplesError("no such column", where=self, expected=names, got=self.column)
        return data

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """The library, without its chatter; whatever it raises becomes one line.

        Where no Hub answers only what was downloaded before is looked for.
        """
        import datasets

        fix = "check its name and split, and the network"
        with (
            quiet_client(),
            guard(SamplesError, "the data set cannot be loaded", self, fix),
            nullcontext() if Path(self.name).exists() or hub_answers() else offline(),
        ):
            yield datasets
