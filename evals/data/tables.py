"""Reads files and data sets of samples as columns, before anything is cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from surgery.errors import SamplesError
from surgery.reading.rows import propose_column, read_rows
from surgery.reading.sources import TextOrTable
from surgery.untrusted import parse_json, reraise_as

PASSAGES = ("tokens", "prefix", "suffix", "text")
LABELS = ("id", "count", "member")
SECRET = "secret"
DUPLICATES = ("duplicates", "meta.duplicates")
"""Hubble's names for a count."""


class Labels(BaseModel):
    """The labels that a file may give its rows."""

    model_config = ConfigDict(strict=True)

    id: list[str | int] | None = None
    count: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = None
    member: list[bool] | None = None


@dataclass(frozen=True)
class PassageTable:
    """Passages: one column of whole ones, or two of prefixes and suffixes.

    `ids`: one name per row, all different. A column's cells are all text or all integer arrays [T].
    `shape`: the (prefix, suffix) lengths of a pair of arrays. `secrets`: what marks each passage's
    secret (`evals.data.secrets`), None for one without; None if there is no such column.
    """

    where: str
    ids: tuple[str, ...]
    columns: tuple[Sequence[Any], ...]
    labels: Labels
    shape: tuple[int, int] | None = None
    secrets: tuple[Any, ...] | None = None

    @property
    def number(self) -> int:
        return len(self.ids)

    @property
    def rows(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.columns, strict=True)

    def name_row(self, at: int) -> str:
        """How messages name a row, with its number counted from 1."""
        return f"row {at + 1} ({self.ids[at]!r})"


def _make_table(
    where: object,
    ids: Sequence[str | int],
    columns: Mapping[str, Any],
    shape: tuple[int, int] | None = None,
    secrets: Sequence[Any] | None = None,
) -> PassageTable:
    """Checks the columns. `ids`: for rows without their own."""
    if not ids:
        raise SamplesError("no rows", where=where, expected="at least one")
    try:
        labels = Labels.model_validate({n: columns[n] for n in LABELS if n in columns})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name, at = problem["loc"][:2]
        what = f"column {name!r}, row {int(at) + 1}"
        raise SamplesError(what, where=where, got=problem["msg"].lower()) from None
    passages = {name: columns[name] for name in PASSAGES if name in columns}
    for name, cells in passages.items():
        kinds = [type(cell) for cell in cells]
        form = kinds[0] if kinds[0] in (str, np.ndarray) else None
        if bad := [at for at, kind in enumerate(kinds) if kind is not form]:
            got = " and ".join(sorted({kind.__name__ for kind in kinds}))
            raise SamplesError(
                f"column {name!r}",
                where=where,
                expected="text in every row, or a list of token ids in every row",
                got=f"{got}, first in row {bad[0] + 1}",
            )
    used = find_passages(passages)
    assert used is not None
    names = tuple(map(str, labels.id or ids))
    ((name, times),) = Counter(names).most_common(1)
    if times > 1:
        rows = [str(at) for at, one in enumerate(names, 1) if one == name][:2]
        got = f"{name!r} {times} times, first in rows {' and '.join(rows)}"
        fix = "name the rows by another column with `id_column`"
        raise SamplesError("ids are not unique", where=where, got=got, fix=fix)
    found = tuple(passages[name] for name in used)
    if len({isinstance(column[0], str) for column in found}) > 1:
        what = "prefix and suffix must both be text or both be token ids"
        raise SamplesError(what, where=where)
    marks = None if secrets is None else tuple(secrets)
    return PassageTable(str(where), names, found, labels, shape, marks)


def find_passages(columns: Container[str]) -> tuple[str, ...] | None:
    """Returns which of the columns hold the passages; None if they do not.

    A pair says where a passage begins, so it goes before the text around it.
    """
    forms = (("tokens",), ("prefix", "suffix"), ("text",))
    return next((form for form in forms if all(name in columns for name in form)), None)


def read_arrays(paths: Sequence[Path]) -> PassageTable:
    """One array of token ids, integers [N, T], or two whose rows belong together."""
    arrays = [_map_array(path) for path in paths]
    where, numbers = ",".join(map(str, paths)), [len(array) for array in arrays]
    if numbers[0] != numbers[-1]:
        raise SamplesError(
            "prefixes and suffixes differ in number",
            where=where,
            expected=f"{numbers[0]} suffixes",
            got=numbers[1],
        )
    if len(arrays) == 1:
        return _make_table(where, range(numbers[0]), {"tokens": arrays[0]})
    prefixes, suffixes = arrays
    shape = (int(prefixes.shape[1]), int(suffixes.shape[1]))
    return _make_table(where, range(numbers[0]), {"prefix": prefixes, "suffix": suffixes}, shape)


def read_table(
    named: str, sources: Sequence[TextOrTable], id_column: str | None = None
) -> PassageTable:
    """Reads the columns of a `PassageTable` that the first row has, and ignores others.

    `id_column`: the one that names the rows; by default `id`. Rows without one get their number;
    of several files, that of the file, too, but never its name, which may be a person's.
    """
    columns: dict[str, list[Any]] | None = None
    ids: list[str | int] = []
    secrets: list[Any] = []
    marked = False
    _check_columns(sources, id_column)
    for place, source in enumerate(sources):
        passages = PASSAGES if source.column is None else (source.column,)
        wanted = passages + LABELS + DUPLICATES + (SECRET,)
        wanted += () if id_column is None else (id_column,)
        for number, (where, row) in enumerate(read_rows(source, wanted, whole=True)):
            with reraise_as(SamplesError, "cannot be used as samples", where):
                if id_column is not None and id_column not in row:
                    raise SamplesError(
                        f"no column {id_column!r} to name rows by",
                        where=where,
                        fix=propose_column(source, id_column, "`id_column`"),
                    )
                named_by = {} if id_column is None else {"id": row[id_column]}
                found = _read_cells(source, row) | named_by
                marked |= SECRET in found
                secrets.append(found.get(SECRET))
                if columns is None:
                    columns = {name: [] for name in PASSAGES + LABELS if name in found}
                for name in ("count", "member"):
                    if name not in columns and found.get(name) is not None:
                        raise ValueError(f"{name!r}, which the first row lacks")
                for name, cells in columns.items():
                    if found.get(name) is None:
                        raise ValueError(f"no {name!r}")
                    cells.append(found[name])
            ids.append(number if len(sources) == 1 else f"{place}:{number}")
    if columns is not None and find_passages(columns) is None:
        column = sources[0].column
        raise SamplesError(
            "no passages" if column is None else f"no column {column!r}",
            where=named,
            expected=None if column else "columns tokens, prefix and suffix, or text",
            fix=propose_column(sources[0]),
        )
    return _make_table(named, ids, columns or {}, secrets=secrets if marked else None)


def _check_columns(sources: Sequence[TextOrTable], id_column: str | None) -> None:
    """Raises `SamplesError` for a column that could not be named in a report, or of mere text."""
    for name in (id_column, sources[0].column):
        if name is not None and not name.isprintable():
            what = "the name of a column holds a line break or another control character"
            raise SamplesError(what, where=sources[0].name, got=repr(name), fix="rename the column")
    if id_column is not None and not all(source.is_table for source in sources):
        raise SamplesError(
            "is text, one passage a line, without columns to name passages by",
            where=next(source.name for source in sources if not source.is_table),
            fix="leave out `id_column`, or give a table",
        )


def _read_cells(source: TextOrTable, row: dict[str, Any]) -> dict[str, Any]:
    """A row's cells by the names of `PassageTable`, with lists of token ids as arrays."""
    if source.form in (".csv", ".tsv"):  # all cells are text
        others = () if source.column else ("tokens",)
        typed = {"count", "member", *DUPLICATES, *others} & row.keys()
        row |= {name: parse_json(row[name].lower()) for name in typed}
    found = {name: _read_cell(value, name) for name, value in row.items()}
    if source.column in found:
        passage = found.pop(source.column)
        found["text" if isinstance(passage, str) else "tokens"] = passage
    for times in [found.pop(name) for name in DUPLICATES if name in found]:
        found.setdefault("count", times)
    return found


def _map_array(path: Path) -> npt.NDArray[Any]:
    """Maps the array into memory, so that only the rows of a test are read."""
    what = "cannot be read as an array of numbers"
    with reraise_as(SamplesError, what, path):
        array = np.asarray(np.load(path, mmap_mode="r"))
        got = f"{array.dtype} {list(array.shape)}"
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise SamplesError("not token ids", where=path, expected="integers [rows, tokens]", got=got)
    return array


def _read_cell(value: Any, name: str) -> Any:
    if not isinstance(value, list):
        return value
    if any(type(item) is not int for item in value):
        raise ValueError(f"{name!r} is a list with entries that are not token ids")
    return np.asarray(value, dtype=np.int64)
