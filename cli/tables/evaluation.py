"""An evaluation for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.tables import print_table
from cli.terminal import echo, note

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


def note_warnings(report: Report) -> None:
    """Prints each warning once. Names the model if there are several."""
    several = len(report.edits) > 1
    lines = (f"{e.name}: {text}" if several else text for e in report.edits for text in e.warnings)
    for line in dict.fromkeys(lines):
        note(f"warning: {line}")


def note_gates(report: Report) -> bool:
    """Prints every gate that failed or is inconclusive. Returns whether all hold."""
    for edit in report.edits:
        whose = f"{edit.name}: " if len(report.edits) > 1 else ""
        for gate in edit.gates:
            if not (gate.ok and gate.conclusive):
                state = "inconclusive" if gate.ok else "failed"
                note(f"{whose}gate {state}: {gate.name}: {gate.description}")
    return all(gate.ok for edit in report.edits for gate in edit.gates)


def _rows(report: Report, several: bool) -> Iterator[tuple[str, ...]]:
    from evals.evaluation.rows import make_tables

    for row in (row for table in make_tables(report) for row in table.rows if row.main):
        cells = [row.base.value if row.base else ""]
        for cell in row.edits:
            texts = ("", "", "") if cell is None else (cell.value, cell.difference, cell.note)
            cells += texts[:1] if several else texts
        yield (f"{row.label} (n = {row.n:,})", *cells)
