"""An evaluation for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.tables import print_table
from cli.terminal import echo, note

if TYPE_CHECKING:
    from surgery.record.report import Report, State


def print_evaluation(report: Report, *places: Path, table: bool = True) -> State | None:
    """Verdicts, one table of the main figures, gates, and where the pages are.

    On stderr, also without `table`: each warning once, and what is not shown to be kept: gates, and
    the limits of the search. Returns the state of all edits together, None without gates.
    """
    from evals.measure.verdicts import settle
    from surgery.card.measurements import WORDS, describe_limit

    several = len(report.edits) > 1
    edits = [(f"{edit.name}: " if several else "", edit) for edit in report.edits]
    gates = [
        (whose, gate) for at, (whose, _) in enumerate(edits) for gate in report.list_limits(at)
    ]
    for line in dict.fromkeys(f"{whose}{text}" for whose, edit in edits for text in edit.warnings):
        note(f"warning: {line}")
    for whose, gate in gates:
        if not gate.ok:
            word = WORDS[gate.state].lower()
            note(f"{whose}gate {word}: {gate.name}: {gate.description}")
    for whose, edit in edits:
        if edit.state is not None and edit.edit is not None and edit.edit.missed_alone:
            note(f"{whose}missed: the search that chose this edit found none that keeps its limits")
    if table:
        for whose, edit in edits:
            echo(f"{whose}{edit.verdict}")
        each = ["edited", "difference [95% interval]", "verdict"]
        names = [edit.name for edit in report.edits] if several else each
        print_table(["", "base", *names], _rows(report, several), words=0 if several else 1)
        for whose, gate in gates:
            echo(f"{whose}gate {describe_limit(gate)}")
        for place in places:
            echo(f"report: {place / 'report.html'}")
    return settle(edit.state for edit in report.edits)


def _rows(report: Report, several: bool) -> Iterator[tuple[str, ...]]:
    from surgery.card.measurements import show

    for figure in (one for one in report.figures if one.main and one.table):
        base = show(figure, figure.base)
        cells = [base.value or base.note if base else ""]
        for one in (show(figure, value) for value in figure.edits):
            texts = ("", "", "") if one is None else (one.value, one.difference, one.note)
            cells += [texts[0] or texts[2]] if several else texts
        yield (f"{figure.label} (n = {figure.n:,})", *cells)
