"""A report's pictures inside the page. Its tables hold the same figures."""

from __future__ import annotations

from collections.abc import Sequence

from evals.report.charts.chart import Picture
from evals.report.charts.dots import Dot, draw_dots
from evals.report.charts.front import FrontPanel, draw_front
from evals.report.charts.grid import Grid, Scale, draw_grid
from evals.report.charts.panels import Point, Series
from evals.report.model_map import chart_map
from surgery.card.measurements import name_edits
from surgery.record.report import EditSummary, Figure, Report, Value
from surgery.selection import Part


def draw_table(figures: Sequence[Figure], names: Sequence[str]) -> Picture | None:
    """A line per figure, with a dot and its 95 % interval for every model.

    Shares of passages, or else differences from the base of scores between 0 and 1. None if the
    table has neither.
    """
    shown = [figure for figure in figures if _is_share(figure)]
    label = "share of passages, 95 % intervals"
    cells = [[_make_dot(value) for value in (one.base, *one.edits)] for one in shown]
    if not shown:
        shown = [figure for figure in figures if _is_score(figure)]
        label = "change from the base in percentage points, 95 % intervals"
        changes = [[one and one.change for one in figure.edits] for figure in shown]
        cells = [
            [None, *(Dot(one.value, one.ci95 or ()) if one else None for one in each)]
            for each in changes
        ]
    if not shown:
        return None
    dots = dict(zip(("base", *names), zip(*cells, strict=True), strict=True))
    return draw_dots("", label, [figure.label for figure in shown], dots).embed()


def _make_dot(one: Value | None) -> Dot | None:
    return None if one is None or one.value is None else Dot(one.value, one.ci95 or ())


def _is_share(figure: Figure) -> bool:
    """Whether it is a share of passages, of the base and not of another model. It has an interval,
    or at least a count.
    """
    noted = any(one is not None and one.value is None for one in figure.edits)
    if noted or figure.form != "share" or figure.base is None:
        return False
    return figure.base.ci95 is not None or "count" in figure.base.details


def _is_score(figure: Figure) -> bool:
    """Whether it is a score between 0 and 1, known of every model with its changes."""
    values = [one.value if one else None for one in (figure.base, *figure.edits)]
    between = all(one is not None and 0 <= one <= 1 for one in values)
    changes = [one is not None and one.change is not None for one in figure.edits]
    return figure.form == "number" and between and all(changes)


def draw_trade_off(report: Report) -> Picture | None:
    """What is recovered against the rise of held-out loss; None if either was not measured.

    Recovered by the first attack that is limited and known of every point; else recited word for
    word.
    """
    losses, figure = report.find("heldout"), report.find("recited")
    if losses is None or figure is None:
        return None
    figure = next((one for one in report.figures if _is_limited(one, report)), figure)
    changes = [one.change.value for one in losses.edits if one and one.change]
    models = zip(["base", *name_edits(report)], [0.0, *changes], _list_values(figure), strict=True)
    base, *edits = [
        Series(name, [Point(rise, 100 * share, y_ends=[100 * end for end in ends])])
        for name, rise, (share, ends) in models
    ]
    attack = str(figure.details.get("name", ""))
    found = [
        Point(one.loss_increase, 100 * one.recovered.get(attack, one.exact_match))
        for one in report.front
    ]
    front = [base, Series("found by the search", found, "mixed")] if found else []
    what = f"recovered by {attack}, %" if attack else "recited word for word, %"
    limits = [one.limit.limit for one in figure.edits if one and one.limit]
    panel = FrontPanel(
        "rise of held-out loss, nats per token",
        what,
        edits if front else [base, *edits],
        front=front,
        limit=("y", 100 * limits[0]) if limits else None,
    )
    return draw_front("", [[panel]]).embed()


def _list_values(figure: Figure) -> list[tuple[float, Sequence[float]]]:
    """What is recovered of the base and of every edit, with intervals."""
    values = [one for one in (figure.base, *figure.edits) if one is not None]
    return [(one.value or 0.0, one.ci95 or ()) for one in values]


def _is_limited(figure: Figure, report: Report) -> bool:
    """Whether it is what a limited attack recovers, known of every point of the search, too."""
    limited = figure.table == "attacked" and any(one and one.limit for one in figure.edits)
    if any(one and one.value is None for one in (figure.base, *figure.edits)):
        return False  # no passage counts for it
    return limited and all(figure.details["name"] in point.recovered for point in report.front)


def draw_model(report: Report, edit: EditSummary) -> Picture:
    """What a search says that blocks and heads are worth and cost; else which ones are edited."""
    found, size = report.map, (edit.num_blocks, edit.num_heads)
    if found is None or (found.num_blocks, found.num_heads) != size:
        return draw_blocks(edit)
    return chart_map(found, edit.parts).embed()


def draw_blocks(edit: EditSummary) -> Picture:
    """The heads of every block; edited ones have the color of their variant."""
    heads = edit.num_heads or 1
    cells: list[list[str | None]] = [[None] * edit.num_blocks for _ in range(heads)]
    whole = [Part(block, (*range(heads),), name) for block, name in edit.attention_free.items()]
    for part in (*whole, *edit.parts):
        for head in part.heads:
            cells[head][part.block] = part.variant
    grid = Grid("heads", [("", cells)])
    return draw_grid(
        "", [Scale(f"{edit.num_blocks} blocks; edited: {edit.drop_attn}", [grid])]
    ).embed()
