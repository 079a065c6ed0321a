"""A report's pictures inside the page. Its tables hold the same figures."""

from __future__ import annotations

from collections.abc import Sequence

from evals.table.charts.chart import Picture
from evals.table.charts.dots import Dot, draw_dots
from evals.table.charts.front import FrontPanel, draw_front
from evals.table.charts.grid import Grid, Scale, draw_grid
from evals.table.charts.lines import LinePanel, draw_lines
from evals.table.charts.model_map import chart_map
from evals.table.charts.panels import Point, Series
from surgery.card.measurements import Line, name_edits
from surgery.record.manifest import History
from surgery.record.measured import BASE, Measured
from surgery.record.report import Report
from surgery.selection import format_selection


def draw_table(report: Report, lines: Sequence[Line]) -> Picture | None:
    """A line per figure, with a dot and its 95 % interval for every model, and for the control.

    Shares of passages, or else differences from the base of scores between 0 and 1. None if the
    table has neither.
    """
    names = [*(["base"] if report.base else []), *name_edits(report)]
    shown = [line for line in lines if _is_share(line)]
    label = "share of passages, 95 % intervals"
    cells = [[_make_dot(row) for row in _list_rows(report, line)] for line in shown]
    if shown and len(report.edits) == 1:
        of = report.edits[0].of
        controls = [report.find(line.name, of, "never trained on") for line in shown]
        if any(controls):
            names.append("never trained on")
            cells = [[*some, _make_dot(one)] for some, one in zip(cells, controls, strict=True)]
    if not shown:
        shown = [line for line in lines if _is_score(line)]
        label = "change from the base in percentage points, 95 % intervals"
        changes = [[row and row.change for row in line.edits] for line in shown]
        cells = [
            [None, *(Dot(one.difference, one.ci95 or ()) if one else None for one in each)]
            for each in changes
        ]
    if not shown:
        return None
    dots = dict(zip(names, zip(*cells, strict=True), strict=True))
    limits = {limit.name: limit.limit for limit in report.limits if limit.what != "task"}
    asked = [limits.get(line.name) for line in shown]
    return draw_dots("", label, [line.named.label for line in shown], dots, asked).embed()


def _list_rows(report: Report, line: Line) -> list[Measured | None]:
    return [*([line.base] if report.base else []), *line.edits]


def _make_dot(one: Measured | None) -> Dot | None:
    return None if one is None or one.value is None else Dot(one.value, one.ci95 or ())


def _is_share(line: Line) -> bool:
    """Whether it is a share of passages with a count, that of some passages for every model."""
    noted = any(row is None or row.value is None for row in line.edits)
    return not noted and line.unit == "share" and "count" in line.rows[-1].details


def _is_score(line: Line) -> bool:
    """Whether it is a score between 0 and 1, known of every model with its changes."""
    values = [row.value if row else None for row in (line.base, *line.edits)]
    between = all(value is not None and 0 <= value <= 1 for value in values)
    changes = [row is not None and row.change is not None for row in line.edits]
    return line.unit == "number" and between and all(changes)


def draw_stages(report: Report) -> Picture | None:
    """What comes back of the passages over the steps of fine-tuning; None if no attack trained."""
    found: dict[str, list[Point]] = {}
    for name, named in report.names.items():
        row = report.find(name, report.edits[0].of)
        if row is not None and "steps_of" in named.details and row.value is not None:
            steps = float(named.details["steps"] or 0)
            attack = str(named.details["steps_of"])
            found.setdefault(attack, []).append(Point(steps, 100 * row.value))
    if not found:
        return None
    series = [Series(name, points) for name, points in found.items()]
    panel = LinePanel("steps of fine-tuning", "recovered (any), %", series)
    return draw_lines("", [[panel]]).embed()


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


def draw_model(report: Report, edit: History) -> Picture:
    """What a search says that blocks and heads are worth and cost; else which ones are edited."""
    found, size = report.map, (edit.step.num_blocks, edit.step.num_heads)
    if found is None or (found.num_blocks, found.num_heads) != size:
        return draw_blocks(edit)
    return chart_map(found, edit.parts).embed()


def draw_blocks(edit: History) -> Picture:
    """The heads of every block; edited ones have the color of their variant."""
    blocks, heads = edit.step.num_blocks, edit.step.num_heads
    cells: list[list[str | None]] = [[None] * blocks for _ in range(heads)]
    for part in edit.parts:
        for head in part.heads:
            cells[head][part.block] = part.variant
    grid = Grid("heads", [("", cells)])
    spec = format_selection(sorted(edit.parts), heads)
    return draw_grid("", [Scale(f"{blocks} blocks; edited: {spec}", [grid])]).embed()
