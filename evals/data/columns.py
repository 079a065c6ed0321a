"""Finds the columns of a table that hold passages and their ids, where nobody named them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from evals.data.loading import FORMS, find_published
from evals.data.tables import PASSAGES, SECRET, find_passages
from surgery.errors import SamplesError
from surgery.reading.rows import are_names, list_columns, read_rows
from surgery.reading.sources import find_sources

_LOOKED_AT = 50
"""Rows by which columns are told apart."""
_ID = re.compile(r"(?i:(^|[^a-z])(id|ids|uuid|guid|index|ref|reference))$|[a-z]Id$")
"""Names of columns that are likely to hold ids, and not numbers of telephones or accounts."""


def find_columns(named: str, id_column: str | None) -> tuple[str, tuple[str, ...], str | None]:
    """Samples with the column that holds the passages, all columns, and the one with the ids.

    Where no column has a name that is known, the passages are in the one with the longest text,
    and ids are in the first other one that is named like ids, and whose cells are short and all
    different. Reports and the Hub show ids, so that nothing else is taken for one.
    """
    if named.startswith("lab:") or ".npy" in named:
        return named, (), id_column
    sources = find_sources(find_published(named), FORMS)
    if not sources or not sources[0].is_table:
        return named, (), id_column
    columns = tuple(list_columns(sources[0]))
    rows = [row for _, row in islice(read_rows(sources[0], columns), _LOOKED_AT)]
    widths = {
        name: _measure_text([row.get(name) for row in rows]) for name in columns if name != SECRET
    }
    column = sources[0].column
    if column is None and not are_names(columns):
        raise SamplesError(
            "the first line seems to name no columns",
            where=sources[0].name,
            fix="put a line with names before it, such as id,text, or name the column: FILE:COLUMN",
        )
    if column is None and find_passages(columns) is None and any(widths.values()):
        column = max(widths, key=lambda name: widths[name])
        named = f"{named}:{column}"
    if id_column is None and "id" not in columns:
        used = {column, SECRET, *PASSAGES}
        id_column = next(
            (
                name
                for name in columns
                if name not in used and _ID.search(name) and _names(rows, name)
            ),
            None,
        )
    return named, columns, id_column


def _measure_text(cells: Sequence[Any]) -> float:
    """Characters of a cell on average; 0 if any is no text."""
    texts = [cell for cell in cells if isinstance(cell, str)]
    return sum(map(len, texts)) / len(texts) if texts and len(texts) == len(cells) else 0.0


def _names(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    cells = [row.get(column) for row in rows]
    short = all(type(cell) in (str, int) and 0 < len(str(cell)) <= 64 for cell in cells)
    return short and len(set(map(str, cells))) == len(cells)
