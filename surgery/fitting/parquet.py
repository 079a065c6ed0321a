"""Columns of a parquet file that somebody else wrote, within what memory allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from surgery.checkpoint.foreign import LIMIT

_ROWS = 256
"""Rows of a file without text that are read together."""
_UNPACKED = 2**30
"""Bytes that columns of a row group may unpack to, whatever they are packed in: 1 GiB."""
_RATIO = 16
"""How many times their packed size larger ones may unpack to."""
_TEXTS = ("string", "large_string", "string_view")
"""Types of text."""


def parquet_batches(
    path: Path, columns: Sequence[str], groups: range | None = None
) -> Iterator[Any]:
    """Record batches of those of `columns` that a parquet file has, a few rows at a time.

    `groups`: the row groups to read (default: all).

    A column is of text, integers, booleans or lists of integers. With text among them a batch is
    one row: a file of a few bytes may repeat a text, and what it says of its size is a claim.

    **Raises:** ValueError for a column of another type, a text that is longer, and a row group
    that unpacks to more than 1 GiB and 16 times its packed size; whatever pyarrow raises.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        fields = [field for field in file.schema_arrow if field.name in columns]
        packed = [_is_packed(field) for field in fields]
        names = [field.name for field in fields]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two columns have the name {twice!r}")
        rows = 1 if any(_is_text(field.type) for field in fields) else _ROWS
        for group in range(file.num_row_groups) if groups is None else groups:
            _check_size(file.metadata.row_group(group), names)
            for batch in file.iter_batches(
                rows, row_groups=[group], columns=names, use_threads=False
            ):
                if any(packed):
                    batch = _unpacked(batch)
                if batch.nbytes > LIMIT:
                    _check_lengths(batch)
                yield batch


def _check_size(group: Any, names: Sequence[str]) -> None:
    """Raises ValueError where the columns of a row group unpack to too much.

    Numbers, which need no room at all when they are packed, are counted by their number.
    """
    chunks = [group.column(index) for index in range(group.num_columns)]
    wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in names]
    size = sum(chunk.total_uncompressed_size + 8 * chunk.num_values for chunk in wanted)
    most = max(_UNPACKED, _RATIO * sum(chunk.total_compressed_size for chunk in wanted))
    if size > most:
        raise ValueError(
            f"a row group unpacks to {size:,} bytes, more than {most:,}: write smaller ones"
        )


def _is_packed(field: Any) -> bool:
    """Whether a column comes with a dictionary. Raises ValueError for a type that none may have."""
    from pyarrow import types

    packed = bool(types.is_dictionary(field.type))
    kind = field.type.value_type if packed else field.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and types.is_integer(kind.value_type):
        return packed
    if types.is_integer(kind) or types.is_boolean(kind) or str(kind) in _TEXTS:
        return packed
    raise ValueError(f"column {field.name!r} is of type {field.type}")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return str(kind.value_type if types.is_dictionary(kind) else kind) in _TEXTS


def _unpacked(batch: Any) -> Any:
    from pyarrow import RecordBatch, types

    columns = [c.dictionary_decode() if types.is_dictionary(c.type) else c for c in batch.columns]
    return RecordBatch.from_arrays(columns, batch.schema.names)


def _check_lengths(batch: Any) -> None:
    from pyarrow import compute

    for field, column in zip(batch.schema, batch.columns, strict=True):
        if _is_text(field.type):
            longest = compute.max(compute.binary_length(column.cast("binary"))).as_py() or 0
            if longest > LIMIT:
                raise ValueError(f"a {field.name!r} of {longest:,} bytes, more than {LIMIT:,}")
