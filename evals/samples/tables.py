"""Files and data sets of samples, read as columns: what is in them, not yet what is tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from surgery.errors import SamplesError
from surgery.reading.rows import rows
from surgery.reading.sources import Source
from surgery.untrusted import guard, parse_json

IdRow = npt.NDArray[Any]
PASSAGES = ("tokens", "prefix", "suffix", "text")
LABELS = ("id", "count", "member")
MOST_ROWS = 10_000_000
MOST_BYTES = 2**33
"""Of the passages of a table, once they are unpacked: 8 GiB."""


class Labels(BaseModel):
    """What a file may say of its rows."""

    model_config = ConfigDict(strict=True)

    id: list[str | int] | None = None
    count: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = None
    member: list[bool] | None = None


@dataclass(frozen=True)
class PassageTable:
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
    ids: Sequence[str | int],
    columns: Mapping[str, Any],
    shape: tuple[int, int] | None = None,
) -> PassageTable:
    """The columns, checked. `ids`: of rows that have none of their own."""
    if not 0 < len(ids) <= MOST_ROWS:
        expected = f"at most {MOST_ROWS:,}" if ids else "at least one"
        raise SamplesError("too many rows" if ids else "no rows", where=where, expected=expected)
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
    names = tuple(map(str, labels.id or ids))
    ((name, times),) = Counter(names).most_common(1)
    if times > 1:
        raise SamplesError("ids are not unique", where=where, got=f"{name!r} {times} times")
    return PassageTable(str(where), names, passages, labels, shape)


def read_npy(path: Path) -> PassageTable:
    """An array of token ids, integers [N, T]."""
    array = _array(path)
    return _table(path, range(len(array)), {"tokens": array})


def read_npy_pair(prefix: Path, suffix: Path) -> PassageTable:
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
    return _table(where, range(len(prefixes)), {"prefix": prefixes, "suffix": suffixes}, shape)


def read_table(named: str, sources: Sequence[Source]) -> PassageTable:
    """The columns that `PassageTable` names, as far as the first row has them; others are ignored."""
    columns: dict[str, list[Any]] | None = None
    ids: list[str | int] = []
    size = 0
    for source in sources:
        passages = PASSAGES if source.column is None else (source.column,)
        for number, (where, row) in enumerate(rows(source, passages + LABELS, whole=True)):
            with guard(SamplesError, "cannot be used as samples", where):
                found = _cells(source, row)
                if columns is None:
                    columns = {name: [] for name in PASSAGES + LABELS if name in found}
                for name, cells in columns.items():
                    if found.get(name) is None:
                        raise ValueError(f"no {name!r}")
                    cells.append(found[name])
                    size += getattr(found[name], "nbytes", 0) or len(str(found[name]))
                if len(ids) >= MOST_ROWS or size > MOST_BYTES:
                    raise ValueError(f"more than {MOST_ROWS:,} rows, or {MOST_BYTES:,} bytes")
            ids.append(number if len(sources) == 1 else f"{source.name}:{number}")
    return _table(named, ids, columns or {})


def _cells(source: Source, row: dict[str, Any]) -> dict[str, Any]:
    """A row's cells by the names of `PassageTable`, lists of token ids as arrays."""
    if source.form in (".csv", ".tsv"):  # text, whatever it means
        typed = {"count", "member", *(() if source.column else ("tokens",))} & row.keys()
        row |= {name: parse_json(row[name].lower()) for name in typed}
    found = {name: _cell(value, name) for name, value in row.items()}
    if source.column in found:
        passage = found.pop(source.column)
        found["text" if isinstance(passage, str) else "tokens"] = passage
    return found


def _array(path: Path) -> npt.NDArray[Any]:
    """Mapped into memory: only what a test is made of is read."""
    what = "cannot be read as an array of numbers"
    with guard(SamplesError, what, path), np.errstate(over="raise"):  # of sizes that are claimed
        array = np.asarray(np.lib.format.open_memmap(path, mode="r"))
        got = f"{array.dtype} {list(array.shape)}"
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise SamplesError("not token ids", where=path, expected="integers [rows, tokens]", got=got)
    return array


def _cell(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        return value
    if any(type(item) is not int for item in value):
        raise ValueError(f"{name!r} is a list that is not of token ids")
    return np.asarray(value, dtype=np.int64)
