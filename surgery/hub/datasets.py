"""Data sets of the Hub, by the name that commands take: `hf:DATASET:SPLIT:COLUMN`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.errors import SamplesError
from surgery.hub.client import go_offline, is_hub_reachable, silence_client
from surgery.untrusted import guard

PREFIX = "hf:"
_ROWS = 256
"""That are read together."""


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

    def read_tables(self, *, whole: bool = False) -> Iterator[Any]:
        """The split as Arrow tables of a few rows, streamed.

        `whole`: downloaded first, to be there the next time. Where no Hub answers, only what was
        downloaded before is looked for. Raises `SamplesError`; whatever the library raises becomes
        one line.
        """
        here = Path(self.name).exists() or is_hub_reachable()
        fix = "check its name and split, and the network"
        with (
            silence_client(),
            guard(SamplesError, "the data set cannot be loaded", self, fix),
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
