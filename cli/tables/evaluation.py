"""What `evaluate` prints for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import echo

if TYPE_CHECKING:
    from evals.evaluation.report import Report


def print_evaluation(report: Report, output: Path) -> None:
    """The verdict, a table of what was measured, the gates, and where the report is."""
    from rich import box
    from rich.table import Table

    from cli.tables import console

    echo(report.verdict)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "base", "edited", "edited - base [95 % interval]", "verdict"):
        table.add_column(heading, justify="left" if heading in ("", "verdict") else "right")
    for row in _rows(report):
        table.add_row(*row)
    out = console()
    out.width = max(out.width, 110)  # a figure is never cut
    out.print(table)
    for gate in report.gates:
        echo(f"gate {gate.name}: {'ok' if gate.ok else 'FAILED'}: {gate.description}")
    echo(f"report: {output / 'report.html'}")


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
    low, high = interval
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"
