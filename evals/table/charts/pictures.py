"""A report's picture inside the page. Its tables hold the same figures."""

from __future__ import annotations

from evals.table.charts.chart import Picture
from evals.table.charts.front import FrontPanel, draw_front
from evals.table.charts.panels import Point, Series
from surgery.card.measurements import name_edits
from surgery.record.measured import BASE
from surgery.record.report import Report


def draw_trade_off(report: Report) -> Picture | None:
    """What is recovered against the rise of held-out loss; None if either was not measured.

    Recovered by the first attack that is limited and known of every point; else recited word for
    word.
    """
    edits = [report.find("heldout", edit.of) for edit in report.edits]
    name = _choose_measure(report)
    losses = [row.change.difference for row in edits if row is not None and row.change is not None]
    rows = [report.find(name, of) for of in (BASE, *(edit.of for edit in report.edits))]
    if report.base is None or len(losses) < len(edits) or any(row is None for row in rows):
        return None
    base, *series = [
        Series(
            name,
            [Point(rise, 100 * (row.value or 0), y_ends=[100 * e for e in row.ci95 or ()])],
        )
        for name, rise, row in zip(["base", *name_edits(report)], [0.0, *losses], rows, strict=True)
        if row is not None
    ]
    front = [base, Series("found by the search", _list_front(report, name), "mixed")]
    front = front if report.front else []
    attack = report.names[name].details.get("attack")
    what = f"recovered by {attack}, %" if attack else "recited word for word, %"
    limits = [limit.limit for limit in report.limits if limit.name == name]
    panel = FrontPanel(
        "rise of held-out loss, nats per token",
        what,
        series if front else [base, *series],
        front=front,
        limit=("y", 100 * limits[0]) if limits else None,
    )
    return draw_front("", [[panel]]).embed()


def _list_front(report: Report, name: str) -> list[Point]:
    points = []
    for one in report.front:
        loss, row = report.find("heldout", one.of), report.find(name, one.of)
        if loss is not None and loss.change is not None and row is not None:
            points.append(Point(loss.change.difference, 100 * (row.value or 0.0)))
    return points


def _choose_measure(report: Report) -> str:
    """The first limited attack that is known of every model and every point; else recitation."""
    models = [BASE, *(edit.of for edit in report.edits), *(one.of for one in report.front)]
    for limit in report.limits:
        rows = [report.find(limit.name, of) for of in models]
        if limit.what == "recovered" and all(row and row.value is not None for row in rows):
            return limit.name
    return "recited"
