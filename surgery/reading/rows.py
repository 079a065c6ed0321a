"""Reads the rows of tables in any format, one after the other.

The standard library reads CSV and JSON, pyarrow reads parquet, and `datasets` what is on the Hub.
Here columns are chosen and checked.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from io import BufferedReader
from typing import Any

from surgery.errors import SamplesError
from surgery.hub.datasets import HubDataset
from surgery.reading.sources import JSON, TextOrTable
from surgery.untrusted import parse_json, read_lines, reraise_as

Rows = Iterator[tuple[str, dict[str, Any]]]
"""Where a row is, and its cells by column name."""
_LONGEST_NAME, _WORDS = 40, 5
"""Letters and words of a column's name, at most, where nobody named the column."""
_ROWS = 256
"""Rows of a batch."""


def read_rows(
    source: TextOrTable, columns: Sequence[str], part: range | None = None, *, whole: bool = False
) -> Rows:
    """Yields the rows of a table, with those `columns` that they have. Skips blank lines.

    A text has one row per line, with a column `text`. Cells of CSV are text.

    `part`: only rows that begin in it, in the units of `measure_extent`. `whole`: downloads a data
    set, so that it is there next time.
    """
    if isinstance(source.place, HubDataset) or source.form == ".parquet":
        yield from _read_columns(source, columns, part, whole)
    elif source.form in (".csv", ".tsv"):
        yield from _read_csv(source, columns)
    elif source.form in JSON:
        yield from _read_json(source, columns, part)
    else:
        with source.open() as file:
            for where, line in read_lines(file, source.place, SamplesError):
                yield where, {"text": line.rstrip("\r\n")}


def propose_column(source: TextOrTable, wanted: str = "", how: str = "FILE:COLUMN") -> str | None:
    """What to do about a table without the right column. None if only some rows lack `wanted`."""
    found = list_columns(source)
    shown = f"columns found: {', '.join(found)}; name the one to use: {how}"
    if not are_names(found):  # but a passage, which no message may show
        shown = "the first line seems to name no columns: put one before it, such as id,text"
    return None if wanted in found else shown


def are_names(columns: Sequence[str]) -> bool:
    """Whether these may be names of columns, and not the first row of a table without any."""
    return all(len(name) <= _LONGEST_NAME and name.count(" ") < _WORDS for name in columns)


def list_columns(source: TextOrTable) -> list[str]:
    if isinstance(source.place, HubDataset):
        return list(_flatten(next(iter(source.place.read_tables()))).column_names)
    if source.form == ".parquet":
        import pyarrow.parquet

        with reraise_as(SamplesError, "cannot be read as parquet", source.place):
            empty = pyarrow.parquet.read_schema(source.place).empty_table()
            return list(_flatten(empty).column_names)
    read = partial(_read_json, part=None) if source.form in JSON else _read_csv
    return [name for _, row in itertools.islice(read(source, None), 1) for name in row]


def measure_extent(source: TextOrTable) -> int:
    """Returns the size in units of a `part`: bytes, or parquet row groups; 0: no parts."""
    size = source.size
    if size is None or source.is_packed or source.form in (".csv", ".tsv"):
        return 0
    if source.form == ".parquet":
        import pyarrow.parquet

        with reraise_as(SamplesError, "cannot be read as parquet", source.place):
            return int(pyarrow.parquet.read_metadata(source.place).num_row_groups)
    if source.form in JSON:
        with source.open() as file:
            return 0 if _is_array(file) else size
    return size


def _read_columns(
    source: TextOrTable, columns: Sequence[str], part: range | None, whole: bool
) -> Rows:
    place = source.place
    what = "cannot be read" if isinstance(place, HubDataset) else "cannot be read as parquet"
    begin = "" if part is None else f" from row group {part.start} on,"
    number = itertools.count(1)
    with reraise_as(SamplesError, what, place):
        for table in _read_tables(source, columns, part, whole):
            for row in table.to_pylist():
                where = f"{place}{begin} row {next(number)}"
                yield where, _pick(row, columns, where)


def _read_tables(
    source: TextOrTable, columns: Sequence[str], part: range | None, whole: bool
) -> Iterator[Any]:
    """Yields Arrow tables of a few rows. `part`: the row groups to read."""
    wanted = {*columns, *(name.partition(".")[0] for name in columns)}
    if isinstance(source.place, HubDataset):
        for table in source.place.read_tables(whole=whole):
            yield table.select([name for name in table.column_names if name in wanted])
        return
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(source.place, pre_buffer=False) as file:
        groups = list(part or range(file.num_row_groups))
        named = [name for name in list_columns(source) if name in columns]
        yield from file.iter_batches(_ROWS, groups, named, use_threads=False)


def _flatten(table: Any) -> Any:
    """Turns the fields of structures into columns `outer.inner`."""
    from pyarrow import types

    while any(types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def _read_csv(source: TextOrTable, columns: Sequence[str] | None) -> Rows:
    """Yields the rows with `columns`; None: with all."""
    csv.field_size_limit(2**31 - 1)
    form = "excel-tab" if source.form == ".tsv" else "excel"
    with source.open() as file:
        table = csv.reader((line.decode() for line in file), form, strict=True)
        header: list[str] = []
        while True:
            with reraise_as(SamplesError, "not CSV", f"{source.place} line {table.line_num + 1}"):
                row = next(table, None)
                if row is None:
                    return
                if row and header and len(row) != len(header):
                    raise ValueError(f"{len(row)} columns, and the first line has {len(header)}")
                if not header and len(set(row)) != len(row):
                    raise ValueError("two columns have the same name")
            if row and header:
                found = zip(header, row, strict=True)
                yield (
                    f"{source.place} line {table.line_num}",
                    {n: c for n, c in found if columns is None or n in columns},
                )
            header = header or row


def _is_array(file: BufferedReader) -> bool:
    """Whether JSON is one array, not one object per line. Moves no position."""
    return file.peek(1).lstrip().startswith(b"[")


def _read_json(source: TextOrTable, columns: Sequence[str] | None, part: range | None) -> Rows:
    """Yields the objects with the keys `columns`; None: with all."""
    place, what = str(source.place), "not JSON"
    with source.open() as file:
        if _is_array(file):
            with reraise_as(SamplesError, what, place):
                items = parse_json(file.read())
            for number, item in enumerate(items, 1):
                yield (where := f"{place} item {number}"), _pick(item, columns, where)
            return
        if part is not None and part.start > 0:
            place = f"{place} from byte {part.start:,} on,"
            file.seek(part.start - 1)
            file.readline()  # to the next line
        if part is not None and file.tell() >= part.stop:
            return
        for where, line in read_lines(file, place, SamplesError):
            with reraise_as(SamplesError, what, where):
                item = parse_json(line)
            yield where, _pick(item, columns, where)
            if part is not None and file.tell() >= part.stop:
                return


def _pick(item: Any, columns: Sequence[str] | None, where: str) -> dict[str, Any]:
    """Returns those `columns` that a JSON object has; None: all. A dot leads into a nested one."""
    if not isinstance(item, dict):
        raise SamplesError("not a JSON object", where=where, expected='{"text": "..."}')
    found: dict[str, Any] = {}
    for name in item if columns is None else columns:
        value: Any = item
        for key in (name,) if name in item else name.split("."):
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            found[name] = value
    return found
