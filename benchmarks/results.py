"""What was measured, as files: benchmarks/results/NAME.json. Every figure of a page comes from one.

A file says which commands measured it, at which commit, when, and on which machine. Its table has
columns with units, and rows of cells. `benchmarks.tables` writes the tables into the pages.

From a benchmark, call `write_results`. From reports of one base:

    python -m benchmarks.results NAME OUT-1/report.json OUT-2/report.json \
        --command 'attn-surgery evaluate OUT-1 ...' --measures evals/measure
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import psutil
import torch
from pydantic import Field, model_validator

from evals.run.groups import list_tool_versions
from surgery.card.measurements import list_tables
from surgery.output import write_text
from surgery.record.manifest import Line, Record, Word
from surgery.record.measured import Ends, Measured, Text
from surgery.record.report import Report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
Unit = Literal["text", "share", "points", "nats", "rise", "number", "count", "seconds", "bytes"]
"""How a page writes a number.

- `share`: from 0 to 1, in percent. `points`: a change of a share, from -1 to 1, in percentage
  points with a sign. `nats`: per token; `rise`: the same, as a change with a sign.
- `count`: a whole number, or, if the cell has `n`, "3 of 60". `number`: as it is.
"""


class Cell(Record):
    """A figure, under the names that a row of a report has (`surgery.record.measured.Measured`).

    `value` None: it was not measured, or no row counts. `unit` None: that of the column.
    """

    value: float | None
    n: int | None = None
    ci95: Ends | None = None
    unit: Unit | None = None


Row = dict[Word, Cell | int | float | Text | None]
"""Column → what stands there. A number alone is a cell without `n` and interval."""


class Column(Record):
    """`digits`: how many stand after the point in cells of this unit; None: as the unit has it."""

    key: Word
    heading: Text
    unit: Unit = "text"
    digits: int | None = None


class Results(Record):
    """A table of measured figures, and how they were measured.

    - `command`: lines as typed in a shell. Later lines use what earlier ones make.
    - `commit`: of attn-surgery, when it measured; with "+" if what `measures` names had changes
      that were not committed. `date`: as YYYY-MM-DD. `seeds`: of the runs.
    - `measures`: the files and folders of the code that the figures are about. If one has a later
      commit, `python -m benchmarks.tables --old` lists the results.
    - `note`: what a reader must know about these figures alone; it stands below the table.
    """

    command: list[Text] = Field(min_length=1)
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{8}\+?$")]
    date: date
    machine: Line
    versions: dict[Word, Line]
    seeds: list[int]
    measures: list[Line] = Field(min_length=1)
    note: Text = ""
    columns: list[Column] = Field(min_length=2)
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_table(self) -> Results:
        known = {column.key for column in self.columns}
        if len(known) < len(self.columns):
            raise ValueError("two columns have the same key")
        if unknown := {key for row in self.rows for key in row} - known:
            raise ValueError(f"a row has {min(unknown)}, which no column has")
        return self

    def to_text(self) -> str:
        """JSON with a line for each column and row, so that a change of a figure changes one."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        parts = []
        for key, value in told.items():
            listed = key in ("command", "columns", "rows")
            lines = [json.dumps(one, ensure_ascii=False) for one in value] if listed else []
            text = ",\n  ".join(lines) if listed else json.dumps(value, ensure_ascii=False)
            parts.append(f' "{key}": [\n  {text}\n ]' if listed else f' "{key}": {text}')
        return "{\n" + ",\n".join(parts) + "\n}\n"


def read_results(name: str, folder: Path = RESULTS) -> Results:
    return Results.model_validate_json((folder / f"{name}.json").read_text(encoding="utf-8"))


def list_results(folder: Path = RESULTS) -> dict[str, Results]:
    """Name → results, in the order of the names."""
    return {file.stem: read_results(file.stem, folder) for file in sorted(folder.glob("*.json"))}


def write_results(
    name: str,
    command: str | Sequence[str],
    columns: Iterable[Column | tuple[str, str] | tuple[str, str, Unit]],
    rows: Iterable[Mapping[str, Any]],
    *,
    measures: Sequence[str],
    seeds: Sequence[int] = (0,),
    note: str = "",
    folder: Path = RESULTS,
) -> Path:
    """Writes FOLDER/NAME.json, with this commit, machine, and date, and these versions.

    A column is a `Column`, or its key, heading, and unit. A cell is a text, a number, a `Cell`, or
    a mapping with the fields of `Cell`. Raises pydantic's `ValidationError` if a row does not fit.
    """
    results = Results(
        command=[command] if isinstance(command, str) else list(command),
        commit=find_commit(measures),
        date=date.today(),
        machine=describe_machine(),
        versions=list_tool_versions(),
        seeds=list(seeds),
        measures=list(measures),
        note=note,
        columns=[_make_column(column) for column in columns],
        rows=[dict(row) for row in rows],
    )
    target = folder / f"{name}.json"
    write_text(target, results.to_text(), overwrite=True)
    return target


def _make_column(told: Column | tuple[Any, ...]) -> Column:
    return told if isinstance(told, Column) else Column(**dict(zip(Column.model_fields, told)))  # noqa: B905


def join_reports(reports: Sequence[Report]) -> tuple[list[Column], list[dict[str, Any]]]:
    """A table of reports with one base: a row for each main figure, a column for each edit."""
    columns = [
        Column(key="what", heading=""),
        Column(key="n", heading="n", unit="count"),
        Column(key="base", heading="before", unit="number", digits=3),
    ]
    rows: dict[str, dict[str, Any]] = {}
    for report in reports:
        (edit,) = report.edits
        columns.append(Column(key=edit.name, heading=edit.name, unit="number", digits=3))
        for table, lines in list_tables(report):
            for line in lines if table.on is None else ():
                if line.named.main and line.base is not None and line.edits[0] is not None:
                    row = rows.setdefault(line.name, {"what": line.named.label, "n": line.n})
                    row |= {"base": _make_cell(line.base), edit.name: _make_cell(line.edits[0])}
    return columns, list(rows.values())


def _make_cell(figure: Measured) -> Cell:
    return Cell(value=figure.value, unit=figure.unit)


def find_commit(measures: Sequence[str]) -> str:
    """The commit of this checkout, and "+" if a file of `measures` differs from it."""
    commit = run_git("rev-parse", "--short=8", "HEAD")[:8]
    return commit + ("+" if run_git("status", "--porcelain", "--", *measures) else "")


def run_git(*arguments: str) -> str:
    """What git prints about this checkout. Raises `CalledProcessError` where there is none."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip()


def describe_machine() -> str:
    """Its processors, memory, and GPUs; no name of a machine or a person."""
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total / 1e9
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    return ", ".join([*parts, f"{memory:.0f} GB", *gpus])


@click.command()
@click.argument("name")
@click.argument(
    "reports", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path, exists=True)
)
@click.option("--command", multiple=True, required=True, help="What measured them, as typed.")
@click.option("--measures", multiple=True, required=True, help="Code that the figures are about.")
@click.option("--note", default="", help="What a reader must know about these figures alone.")
def main(
    name: str,
    reports: tuple[Path, ...],
    command: tuple[str, ...],
    measures: tuple[str, ...],
    note: str,
) -> None:
    """Writes the main figures of report.json files to benchmarks/results/NAME.json."""
    read = [Report.model_validate_json(one.read_text(encoding="utf-8")) for one in reports]
    columns, rows = join_reports(read)
    click.echo(write_results(name, command, columns, rows, measures=measures, note=note))


if __name__ == "__main__":
    main()
