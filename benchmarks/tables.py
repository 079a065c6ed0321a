"""Writes the tables of benchmarks/results/ into README and docs, and draws their pictures.

    python -m benchmarks.tables            # writes what is old
    python -m benchmarks.tables --check    # fails where a page or a picture is not what results say
    python -m benchmarks.tables --old      # lists results older than the code that they measure

In a page, a table stands between two comments, and is written anew each time:

    <!-- table: NAME -->
    <!-- end -->

`columns=KEY|KEY` picks columns, and `KEY="CELL|CELL"` picks the rows that have one of these cells
in a column, as in `<!-- table: rivals columns=way|kl bed="lab:pythia" -->`. Between `<!-- command:
NAME -->` and `<!-- end -->` stand the commands that measured it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CalledProcessError

import click

from benchmarks.pictures import DRAWN, PICTURES, draw_picture, is_drawn
from benchmarks.results import RESULTS, ROOT, Cell, Column, Results, Row, list_results, run_git
from surgery.output import write_text

_BLOCK = re.compile(r"(<!-- (table|command): ([^\n]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_DIGITS = {"share": 1, "points": 1, "nats": 3, "rise": 3, "seconds": 0, "bytes": 0, "count": 0}


def list_pages(root: Path = ROOT) -> list[Path]:
    """The pages that may hold tables."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def fill_page(text: str, page: Path, known: Mapping[str, Results]) -> str:
    """The text of a page with all that stands between markers as `known` has it.

    Raises `ClickException` where a marker names no results, no column, or no row.
    """

    def fill(match: re.Match[str]) -> str:
        opened, kind, told, _, closed = match.groups()
        name, *options = shlex.split(told)
        where = f"{page.name}, {opened.strip()}"
        if name not in known:
            raise click.ClickException(f"{where}: there is no benchmarks/results/{name}.json")
        if kind == "command":
            lines = [f"    {line}" for line in known[name].command]
            return "\n".join([opened.strip(), "", *lines, "", closed])
        lines = list(make_table(known[name], options, where))
        caption = _write_caption(name, known[name], page)
        return "\n".join([opened.strip(), *lines, "", caption, closed])

    marks = [len(re.findall(mark, text)) for mark in ("<!-- (?:table|command): ", "<!-- end -->")]
    if {*marks} != {len(_BLOCK.findall(text))}:
        raise click.ClickException(f"{page.name}: a marker and its <!-- end --> do not pair up")
    return _BLOCK.sub(fill, text)


def _write_caption(name: str, results: Results, page: Path) -> str:
    up = "../" * (len(page.relative_to(ROOT).parts) - 1) if page.is_relative_to(ROOT) else "../"
    link = f"[Measured]({up}benchmarks/results/{name}.json)"
    changed = ", changed" if results.commit.endswith("+") else ""
    said = f"{link} at {results.commit.rstrip('+')}{changed}, {results.date}."
    return f"{said} {results.note}".strip()


def make_table(results: Results, options: list[str], where: str = "") -> Iterator[str]:
    """The lines of a Markdown table. `options`: as in a marker, without the name."""
    asked = dict(option.partition("=")[::2] for option in options)
    columns = {column.key: column for column in results.columns}
    shown = asked.pop("columns").split("|") if "columns" in asked else list(columns)
    if unknown := {*shown, *asked} - {*columns}:
        raise click.ClickException(f"{where}: no column is named {min(unknown)}")
    picked = results.rows
    for key, cells in asked.items():
        wanted = cells.split("|")
        picked = [row for row in picked if str(row.get(key)) in wanted]
        if lost := {*wanted} - {str(row.get(key)) for row in picked}:
            raise click.ClickException(f"{where}: no row has {min(lost)} as {key}")
    sizes = {key: find_size(columns[key], picked) for key in shown}
    headings = [columns[key].heading + (f", n={sizes[key]}" if sizes[key] else "") for key in shown]
    yield f"|{'|'.join(headings)}|"
    yield f"|{'---|' * len(shown)}"
    for row in picked:
        told = (write_cell(row.get(key), columns[key], sizes[key]) for key in shown)
        yield f"|{'|'.join(told)}|"


def find_size(column: Column, rows: Sequence[Row]) -> int | None:
    """The n that most shares of a column have; None if some have none."""
    cells = [row.get(column.key) for row in rows]
    sizes = Counter(cell.n for cell in cells if isinstance(cell, Cell) and cell.value is not None)
    if column.unit != "share" or not sizes or None in sizes:
        return None
    return sizes.most_common(1)[0][0]


def write_cell(cell: Cell | float | str | None, column: Column, size: int | None = None) -> str:
    """A cell as a page shows it: "3 of 60", "41.1%", "+0.047 [+0.02, +0.07]", or its text.

    `size`: the n that the heading tells; a cell with another n tells its own.
    """
    if cell is None or isinstance(cell, str):
        return cell or ""
    if not isinstance(cell, Cell):
        cell = Cell(value=cell)
    unit = cell.unit or column.unit
    if cell.value is None:
        return ""
    if unit == "count":
        return f"{cell.value:.0f}" + (f" of {cell.n}" if cell.n is not None else "")
    scale = 100 if unit in ("share", "points") else 1
    own = column.digits if unit == column.unit else None
    digits = _DIGITS.get(unit) if own is None else own
    sign = "+" if unit in ("points", "rise") else ""
    form = f"{sign},.{digits}f" if digits is not None else f"{sign}g"

    def write(number: float) -> str:
        return format(scale * number, form).replace("-", "−")

    ends = f" [{write(cell.ci95[0])}, {write(cell.ci95[1])}]" if cell.ci95 else ""
    other = f" (n={cell.n})" if size and cell.n not in (None, size) else ""
    return write(cell.value) + {"share": "%", "seconds": " s"}.get(unit, "") + ends + other


def find_later_changes(results: Results) -> str | None:
    """The commits since the measuring that changed what it is about, in words; None if none did."""
    since = f"{results.commit.rstrip('+')}..HEAD"
    try:
        later = run_git("log", "--no-merges", "--format=%h, %s", since, "--", *results.measures)
    except CalledProcessError:
        return f"a commit of this checkout: {results.commit} is not in its history"
    last, *others = later.split("\n")
    return last + (f" (and {len(others)} changes before that)" if others else "") or None


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where a page is old.")
@click.option("--old", is_flag=True, help="List results older than the code that they measure.")
def main(check: bool, old: bool) -> None:
    """Writes the tables of benchmarks/results/ into README and docs, and draws their pictures."""
    known = list_results(RESULTS)
    if old:
        for name, results in known.items():
            if later := find_later_changes(results):
                click.echo(f"{name}: {results.date}, measured before {later}")
        return
    different = []
    for page in list_pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill_page(text, page, known)) != text:
            different.append(str(page.relative_to(ROOT)))
            if not check:
                write_text(page, filled, overwrite=True)
    for name in DRAWN:
        if not is_drawn(name, known):
            different.append(f"docs/pictures/{name}.svg")
            if not check:
                write_text(PICTURES / f"{name}.svg", draw_picture(name, known), overwrite=True)
    for name in different:
        click.echo(f"{name} {'is old' if check else 'is written'}")
    if check and different:
        raise click.ClickException("run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
