"""Reads columns of other people's Arrow tables and parquet files in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from surgery.untrusted import LIMIT

_ROWS = 256
"""Rows of a batch without text."""
_UNPACKED = 2**30
"""Bytes that columns of a row group may always unpack to: 1 GiB."""
_RATIO = 16
"""How many times their packed size larger row groups may unpack to."""


def read_batches(path: Path, columns: Sequence[str], groups: range | None = None) -> Iterator[Any]:
    """Yields record batches, a few rows each, of those `columns` that a parquet file has.

    `groups`: the row groups to read (default: all). A dot in a column leads into a structure. With
    a text column, a batch is one row: a tiny file can repeat a text many times and misstate its
    size.

    **Raises:** ValueError for two columns with one name, for a row group that unpacks to more than
    1 GiB and 16 times its packed size, and as `read_cells`; whatever pyarrow raises.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        fields = [f for f in flatten(file.schema_arrow.empty_table()).schema if f.name in columns]
        names = [field.name for field in fields]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two columns have the name {twice!r}")
        rows = 1 if any(_is_text(field.type) for field in fields) else _ROWS
        for group in range(file.num_row_groups) if groups is None else groups:
            _check_size(file.metadata.row_group(group), names)
            for batch in file.iter_batches(
                rows, row_groups=[group], columns=names, use_threads=False
            ):
                yield from flatten(pyarrow.Table.from_batches([batch])).to_batches()


def flatten(table: Any) -> Any:
    """Turns the fields of structures into columns `outer.inner`."""
    from pyarrow import types

    while any(types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def read_cells(column: Any) -> Sequence[Any]:
    """Returns a column's texts, integers or booleans, or lists of integers as arrays [T].

    Raises ValueError for another type, and for a text longer than `LIMIT`.
    """
    from pyarrow import compute, types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if _is_text(kind):
        if column.nbytes > LIMIT:
            longest = compute.max(compute.binary_length(column.cast("binary"))).as_py() or 0
            if longest > LIMIT:
                raise ValueError(f"a text of {longest:,} bytes, more than {LIMIT:,}")
    elif types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        if not types.is_integer(kind.value_type):
            raise ValueError(f"a column of type {kind}")
        items = column.flatten()
        if len(column) and not column.null_count and not items.null_count:
            ends = np.cumsum(compute.list_value_length(column).to_numpy(zero_copy_only=False))
            return np.split(items.to_numpy(zero_copy_only=False), ends[:-1])
    elif not types.is_integer(kind) and not types.is_boolean(kind):
        raise ValueError(f"a column of type {kind}")
    return column.to_pylist()  # type: ignore[no-any-return]


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view")


def _check_size(group: Any, names: Sequence[str]) -> None:
    """Raises ValueError if the columns of a row group unpack to too much.

    Counts 8 bytes a number, because packed numbers may need no space at all.
    """
    chunks = [group.column(index) for index in range(group.num_columns)]
    wanted = [c for c in chunks if f"{c.path_in_schema}.".startswith(tuple(f"{n}." for n in names))]
    size = sum(chunk.total_uncompressed_size + 8 * chunk.num_values for chunk in wanted)
    most = max(_UNPACKED, _RATIO * sum(chunk.total_compressed_size for chunk in wanted))
    if size > most:
        raise ValueError(
            f"a row group unpacks to {size:,} bytes, more than {most:,}: write smaller ones"
        )
