"""Files and data sets of samples, read as columns: what is in them, not yet what is tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from surgery.checkpoint.foreign import as_lines, guard, parse_json, read_lines
from surgery.errors import SamplesError
from surgery.fitting.parquet import parquet_batches
from surgery.hub.datasets import HubDataset

IdRow = npt.NDArray[Any]
PASSAGES = ("tokens", "prefix", "suffix", "text")
LABELS = ("id", "count", "member")
MOST_ROWS = 10_000_000
MOST_BYTES = 2**33
"""Of the columns of a parquet file, once they are unpacked: 8 GiB."""

_JOINED = 2**20
"""Bytes of rows that are looked at together, or a single larger one."""


class Labels(BaseModel):
    """What a file may say of its rows."""

    model_config = ConfigDict(strict=True)

    id: list[str | int] | None = None
    count: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = None
    member: list[bool] | None = None


@dataclass(frozen=True)
class Table:
    """Columns of rows, by name. `ids`: one name a row, all different.

    A passage is in `tokens`, in `prefix` and `suffix`, or in `text`; a column's cells are all text
    or all arrays of integers [T]. `shape` is the (prefix, suffix) length that a pair of arrays has.
    """

    where: str
    ids: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    labels: Labels
    shape: tuple[int, int] | None = None

    @property
    def number(self) -> int:
        return len(self.ids)


def _table(
    where: object,
    number: int,
    columns: Mapping[str, Any],
    shape: tuple[int, int] | None = None,
) -> Table:
    """The columns, checked."""
    if not 0 < number <= MOST_ROWS:
        expected = f"at most {MOST_ROWS:,}" if number else "at least one"
        raise SamplesError("too many rows" if number else "no rows", where=where, expected=expected)
    with guard(SamplesError, "cannot be used as samples", where):
        labels = Labels.model_validate({n: columns[n] for n in LABELS if n in columns})
    passages = {name: columns[name] for name in PASSAGES if name in columns}
    for name, cells in passages.items():
        kinds = {type(cell) for cell in cells}
        if kinds not in ({str}, {np.ndarray}):
            raise SamplesError(
                f"column {name!r}",
                where=where,
                expected="text in every row, or a list of token ids in every row",
                got=" and ".join(sorted(kind.__name__ for kind in kinds)),
            )
    ids = tuple(map(str, labels.id or range(number)))
    ((name, times),) = Counter(ids).most_common(1)
    if times > 1:
        raise SamplesError("ids are not unique", where=where, got=f"{name!r} {times} times")
    return Table(str(where), ids, passages, labels, shape)


def read_npy(path: Path) -> Table:
    """An array of token ids, integers [N, T]."""
    array = _array(path)
    return _table(path, len(array), {"tokens": array})


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
    return _table(where, len(prefixes), {"prefix": prefixes, "suffix": suffixes}, shape)


def read_table(path: Path) -> Table:
    """`.jsonl` or `.parquet` with the columns that `Table` names; others are ignored."""
    if path.suffix == ".parquet":
        with guard(SamplesError, "cannot be read as parquet", path):
            columns = _arrow_columns(_joined(parquet_batches(path, PASSAGES + LABELS)))
        return _table(path, *columns)
    return _table(path, *_json_lines(path))


def read_dataset(dataset: HubDataset) -> Table:
    """Its column, of token ids or text, with `id`, `count` and `member`."""
    data, column = dataset.load(), dataset.column
    wanted = [column, *(label for label in LABELS if label in data.column_names)]
    with guard(SamplesError, "cannot be read", dataset):
        batches = data.select_columns(wanted).with_format("arrow").iter(1_000)
        number, columns = _arrow_columns(b for table in batches for b in table.to_batches())
    passages = columns.pop(column, [])
    kind = "text" if len(passages) and isinstance(passages[0], str) else "tokens"
    return _table(dataset, number, {kind: passages, **columns})


def _array(path: Path) -> npt.NDArray[Any]:
    """Mapped into memory: only what a test is made of is read."""
    what = "cannot be read as an array of numbers"
    with guard(SamplesError, what, path), np.errstate(over="raise"):  # of sizes that are claimed
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        got = f"{array.dtype} {list(array.shape)}"
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise SamplesError("not token ids", where=path, expected="integers [rows, tokens]", got=got)
    return array


def _json_lines(path: Path) -> tuple[int, dict[str, Sequence[Any]]]:
    """The number of rows, and the columns that the first of them has."""
    columns: dict[str, list[Any]] | None = None
    number = 0
    with path.open("rb") as file:
        for where, line in read_lines(file, path, SamplesError):
            with guard(SamplesError, "not JSON lines of samples", where, as_lines(line)):
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                if columns is None:
                    columns = {name: [] for name in PASSAGES + LABELS if name in row}
                for name, cells in columns.items():
                    cells.append(_cell(row.get(name), name))
            number += 1
    return number, {**(columns or {})}


def _cell(value: Any, name: str) -> Any:
    if value is None:
        raise ValueError(f"no {name!r}")
    if not isinstance(value, list):
        return value
    if any(type(item) is not int for item in value):
        raise ValueError(f"{name!r} is a list that is not of token ids")
    return np.asarray(value, dtype=np.int64)


def _joined(batches: Iterable[Any]) -> Iterator[Any]:
    """The same rows in fewer batches, where single ones are small: each costs as much as many."""
    import pyarrow

    held: list[Any] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size > _JOINED or len(held) == 1_000:
            yield from pyarrow.Table.from_batches(held).combine_chunks().to_batches()
            held, size = [], 0
    if held:
        yield from pyarrow.Table.from_batches(held).combine_chunks().to_batches()


def _arrow_columns(batches: Iterable[Any]) -> tuple[int, dict[str, Sequence[Any]]]:
    """The number of rows, and the columns: of arrays where they are lists of integers."""
    columns: dict[str, list[Any]] = {}
    number = size = 0
    for batch in batches:
        number, size = number + batch.num_rows, size + batch.nbytes
        if number > MOST_ROWS or size > MOST_BYTES:
            raise ValueError(f"more than {MOST_ROWS:,} rows or {MOST_BYTES:,} bytes")
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            columns.setdefault(name, []).extend(_cells(array, name))
    return number, {**columns}


def _cells(array: Any, name: str) -> Sequence[Any]:
    import pyarrow.compute
    from pyarrow import types

    kind = array.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    flat = array.flatten() if is_list and len(array) else None
    if flat is None or array.null_count or flat.null_count or not types.is_integer(flat.type):
        return [_cell(value, name) for value in array.to_pylist()]
    lengths = pyarrow.compute.list_value_length(array).to_numpy(zero_copy_only=False)
    return np.split(flat.to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])
