"""Files and data sets of samples, read as columns: what is in them, not yet what is tested."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import SamplesError
from surgery.hub_dataset import HubDataset

__all__ = ["IdRow", "Table", "read_dataset", "read_npy", "read_npy_pair", "read_table"]

IdRow = npt.NDArray[np.int64]
COLUMNS = ("tokens", "prefix", "suffix", "text", "id", "count", "member")


@dataclass(frozen=True)
class Table:
    """Columns of equal length by name.

    A passage is in `tokens`, in `prefix` and `suffix`, or in `text`; each cell is text or an
    int64 array of token ids. `shape` is the (prefix, suffix) length that a pair of arrays has.
    """

    where: str
    columns: Mapping[str, Any]
    shape: tuple[int, int] | None = None


def read_npy(path: Path) -> Table:
    """An array of token ids, integers [N, T]."""
    return Table(str(path), {"tokens": _array(path)})


def read_npy_pair(prefix: Path, suffix: Path) -> Table:
    """Two arrays of token ids, integers [N, P] and [N, S]: rows that belong together."""
    prefixes, suffixes = _array(prefix), _array(suffix)
    where = f"{prefix},{suffix}"
    if len(prefixes) != len(suffixes):
        raise SamplesError(
            "prefixes and suffixes differ in number",
            where=where,
            expected=f"{len(prefixes)} suffixes",
            got=len(suffixes),
        )
    shape = (int(prefixes.shape[1]), int(suffixes.shape[1]))
    return Table(where, {"prefix": prefixes, "suffix": suffixes}, shape)


def read_table(path: Path) -> Table:
    """`.jsonl` or `.parquet` with the columns that `Table` names; others are ignored."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            names = pyarrow.parquet.read_schema(path).names
            table = pyarrow.parquet.read_table(path, columns=[n for n in COLUMNS if n in names])
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise SamplesError("cannot be read as parquet", where=path, got=error) from error
        return Table(str(path), {name: _arrow(table[name]) for name in table.column_names})
    return Table(str(path), _json_lines(path))


def read_dataset(dataset: HubDataset) -> Table:
    """Its column, of token ids or text, with `id`, `count` and `member`."""
    data, column = dataset.load(), dataset.column
    wanted = [column, *(n for n in ("id", "count", "member") if n in data.column_names)]
    table = data.select_columns(wanted).with_format("arrow")[:]
    columns = {name: _arrow(table[name]) for name in wanted}
    passages = columns.pop(column)
    kind = "text" if len(passages) and isinstance(passages[0], str) else "tokens"
    return Table(str(dataset), {kind: passages, **columns})


def _array(path: Path) -> IdRow:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SamplesError(
            "cannot be read as an array of numbers", where=path, got=error
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iu":
        got = (
            f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        )
        raise SamplesError("not token ids", where=path, expected="integers [rows, tokens]", got=got)
    return array.astype(np.int64)


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows: list[dict[str, Any]] = []
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                    rows.append(row)
    except OSError as error:
        raise SamplesError("cannot be read", where=path, got=error.strerror) from error
    except ValueError as error:
        raise SamplesError("not JSON lines", where=f"{path} line {number}", got=error) from error
    if not rows:
        raise SamplesError("no rows", where=path, expected="at least one")
    names = [name for name in COLUMNS if name in rows[0]]
    for number, row in enumerate(rows, 1):
        for name in names:
            if row.get(name) is None:
                raise SamplesError(f"row {number} has no {name!r}", where=path)
    return {name: [_cell(row[name], path, n) for n, row in enumerate(rows, 1)] for name in names}


def _cell(value: Any, path: Path, number: int) -> Any:
    if not isinstance(value, list):
        return value
    if any(type(item) is not int for item in value):
        raise SamplesError(f"row {number} holds a list that is not of token ids", where=path)
    return np.asarray(value, dtype=np.int64)


def _arrow(column: Any) -> Sequence[Any]:
    import pyarrow

    array = column.combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):
        array = pyarrow.concat_arrays(array.chunks) if array.num_chunks else array
    kinds = pyarrow.types
    is_list = kinds.is_list(array.type) or kinds.is_large_list(array.type)
    if (is_list or kinds.is_fixed_size_list(array.type)) and not array.null_count:
        if not kinds.is_integer(array.type.value_type):
            raise SamplesError("a list column is not of token ids", got=array.type)
        lengths = pyarrow.compute.list_value_length(array).to_numpy(zero_copy_only=False)
        flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
        return np.split(flat, np.cumsum(lengths)[:-1]) if len(array) else []
    values: list[Any] = array.to_pylist()
    return values
