"""Data sets on the Hub, named `hf:DATASET:SPLIT:COLUMN`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import SamplesError
from surgery.hub.client import go_offline, is_hub_reachable, silence_client
from surgery.untrusted import reraise_as

PREFIX = "hf:"
_ROWS = 256
"""In a batch."""


@dataclass(frozen=True)
class HubDataset:
    """One column of one split of a data set."""

    name: str
    split: str
    column: str

    @staticmethod
    def parse(source: str) -> HubDataset:
        """Parses `hf:DATASET:SPLIT:COLUMN`."""
        parts = source.removeprefix(PREFIX).split(":")
        if len(parts) != 3 or not all(parts):
            raise SamplesError("malformed", where=source, expected=f"{PREFIX}DATASET:SPLIT:COLUMN")
        return HubDataset(*parts)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}:{self.split}:{self.column}"

    def read_tables(self, *, whole: bool = False) -> Iterator[Any]:
        """Streams the split as Arrow tables of a few rows.

        `whole`: downloads it first, so that it is there next time. If the Hub does not answer,
        uses only what was downloaded before. Raises `SamplesError` for any error of the library.
        """
        here = Path(self.name).exists() or is_hub_reachable()
        fix = "check its name and split, and the network"
        with (
            silence_client(),
            reraise_as(SamplesError, "the data set cannot be loaded", self, fix),
            nullcontext() if here else go_offline(),
        ):
            import datasets

            stream = here and not whole
            data = datasets.load_dataset(self.name, split=self.split, streaming=stream)
            for table in data.with_format("arrow").iter(_ROWS):
                names = table.column_names
                if not {self.column, self.column.partition(".")[0]} & set(names):
                    expected = ", ".join(names)
                    raise SamplesError(
                        "no such column", where=self, expected=expected, got=self.column
                    )
                yield table
