"""What `evaluate` prints for people, of one edit or of several of one base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import echo
from cli.tables import print_table, with_interval

if TYPE_CHECKING:
    from evals.evaluation.report import Report
    from evals.evaluation.side_by_side import SideBySide


def print_evaluation(report: Report, output: Path) -> None:
    """The verdict, a table of what was measured, the gates, and where the report is."""
    echo(report.verdict)
    print_table(("", "base", "edited", "edited - base [95 % interval]", "verdict"), _rows(report))
    for gate in report.gates:
        echo(f"gate {gate.name}: {'ok' if gate.ok else 'FAILED'}: {gate.description}")
    echo(f"report: {output / 'report.html'}")


def print_side_by_side(found: SideBySide) -> None:
    """A row for each figure, a column for each edit."""
    rows = [
        (label, "", *(getattr(column, key) or "" for column in found.columns))
        for label, key in (("edited", "drop_attn"), ("variant", "variant"))
    ]
    for row in found.rows:
        form = "{:.1%}" if row.unit == "share" else "{:.3f}"
        shown = (form.format(value) for value in (row.base, *(cell.value for cell in row.edits)))
        rows.append((f"{row.name} (n = {row.n:,})", *shown))
    print_table(("", "base", *(column.folder for column in found.columns)), rows)


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    if report.extraction is not None:
        models = (report.extraction["baseline"], report.extraction)
        before, after = (figures["exact_match"]["rate"] for figures in models)
        change = report.extraction["paired"]["exact_match_difference"]
        shown = _change(change["value"], change["ci95"])
        label = f"passages recited (n = {report.extraction['n']:,})"
        yield label, _number(before), _number(after), shown, ""
    else:
        yield "passages recited", "", "", "", "memorization was not measured"
    for name, task in report.tasks.items():
        shown = _change(task.difference, task.ci95)
        label = f"{name} ({task.metric}, n = {task.n:,})"
        yield label, _number(task.base), _number(task.edited), shown, task.verdict
    if report.heldout is not None:
        base, edited, rise = report.heldout.base, report.heldout.edited, report.heldout.difference
        shown = _change(rise.mean, rise.ci95)
        label = f"held-out loss (nats per token, n = {report.heldout.n:,})"
        yield label, _number(base.mean), _number(edited.mean), shown, report.heldout.verdict


def _number(value: float) -> str:
    return f"{value:.4g}"


def _change(value: float, interval: Any) -> str:
    return with_interval(value, interval, "{:+.3g}")
