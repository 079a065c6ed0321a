"""An evaluation for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.tables import print_table
from cli.terminal import echo, note

if TYPE_CHECKING:
    from evals.measure.verdicts import State
    from evals.report.report import Report


def print_evaluation(report: Report, *places: Path, table: bool = True) -> State | None:
    """Verdicts, one table of the main figures, gates, and where the pages are.

    On stderr, also without `table`: each warning once, and gates that are not shown to be kept.
    Returns the state of all gates together, None without any.
    """
    from evals.measure.verdicts import WORDS, settle

    several = len(report.edits) > 1
    edits = [(f"{edit.name}: " if several else "", edit) for edit in report.edits]
    gates = [(whose, gate) for whose, edit in edits for gate in edit.gates]
    for line in dict.fromkeys(f"{whose}{text}" for whose, edit in edits for text in edit.warnings):
        note(f"warning: {line}")
    for whose, gate in gates:
        if not gate.ok:
            word = WORDS[gate.state].lower()
            note(f"{whose}gate {word}: {gate.name}: {gate.description}")
    if table:
        from evals.report.page import describe_gate

        for whose, edit in edits:
            echo(f"{whose}{edit.verdict}")
        each = ["edited", "difference [95% interval]", "verdict"]
        names = [edit.name for edit in report.edits] if several else each
        print_table(["", "base", *names], _rows(report, several), words=0 if several else 1)
        for whose, gate in gates:
            echo(f"{whose}gate {describe_gate(gate)}")
        for place in places:
            echo(f"report: {place / 'report.html'}")
    return settle(gate.state for _, gate in gates)


def _rows(report: Report, several: bool) -> Iterator[tuple[str, ...]]:
    from evals.report.rows import make_tables

    for row in (row for table in make_tables(report) for row in table.rows if row.main):
        cells = [row.base.value or row.base.note if row.base else ""]
        for cell in row.edits:
            texts = ("", "", "") if cell is None else (cell.value, cell.difference, cell.note)
            cells += [texts[0] or texts[2]] if several else texts
        yield (f"{row.label} (n = {row.n:,})", *cells)
