"""What `evaluate` prints for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import echo
from cli.tables import print_table

if TYPE_CHECKING:
    from evals.evaluation.report import Report


def print_evaluation(report: Report, *places: Path) -> None:
    """Verdicts, one table of the main figures, gates, and where the pages are."""
    from evals.evaluation.page import describe_gate

    several = len(report.edits) > 1
    for edit in report.edits:
        echo(f"{edit.name}: {edit.verdict}" if several else edit.verdict)
    headings = ["", "base"]
    for edit in report.edits:
        headings += [edit.name] if several else ["edited", "difference [95% interval]", "verdict"]
    print_table(headings, _rows(report, several))
    for edit in report.edits:
        for gate in edit.gates:
            echo(f"{edit.name + ': ' if several else ''}gate {describe_gate(gate)}")
    for place in places:
        echo(f"report: {place / 'report.html'}")


def _rows(report: Report, several: bool) -> Iterator[tuple[str, ...]]:
    from evals.evaluation.rows import make_tables

    for row in (row for table in make_tables(report) for row in table.rows if row.main):
        cells = [row.base.value if row.base else ""]
        for cell in row.edits:
            shown = ("", "", "") if cell is None else (cell.value, cell.difference, cell.note)
            cells += shown[:1] if several else shown
        yield (f"{row.label} (n = {row.n:,})", *cells)
