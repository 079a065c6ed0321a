"""A report's pictures inside the page. Its tables hold the same figures."""

from __future__ import annotations

from collections.abc import Sequence

from evals.report.charts.chart import Picture
from evals.report.charts.dots import Dot, draw_dots
from evals.report.charts.front import FrontPanel, draw_front
from evals.report.charts.grid import Grid, Scale, draw_grid
from evals.report.charts.panels import Point, Series
from evals.report.model_map import chart_map
from evals.report.report import EditSummary, Report
from evals.report.rows import NATS, SHARE, Cell, Ends, Row, Table, collect_parts
from surgery.selection import Part


def draw_table(table: Table, names: Sequence[str]) -> Picture | None:
    """A line per row, with a dot and its 95 % interval for every model.

    Shares of passages, or else differences from the base of scores between 0 and 1. None if the
    table has neither.
    """
    rows = [row for row in table.rows if _is_share(row)]
    label = "share of passages, 95 % intervals"
    cells = [[_make_dot(cell) for cell in (row.base, *row.edits)] for row in rows]
    if not rows:
        rows = [row for row in table.rows if _is_score(row)]
        label = "change from the base in percentage points, 95 % intervals"
        cells = [
            [None, *(Dot(one.change or 0.0, one.change_ci95) if one else None for one in row.edits)]
            for row in rows
        ]
    if not rows:
        return None
    dots = dict(zip(("base", *names), zip(*cells, strict=True), strict=True))
    return draw_dots("", label, [row.label for row in rows], dots).embed()


def _make_dot(cell: Cell | None) -> Dot | None:
    return None if cell is None or cell.number is None else Dot(cell.number, cell.ci95)


def _is_share(row: Row) -> bool:
    """Whether a row has shares with intervals, of the base and not of another model."""
    noted = any(one is not None and one.number is None for one in row.edits)
    return bool(row.base and row.base.form is SHARE and row.base.ci95) and not noted


def _is_score(row: Row) -> bool:
    """Whether a row has scores between 0 and 1, none of which is a loss, and their changes."""
    cells = [one for one in (row.base, *row.edits) if one is not None and one.form is not NATS]
    between = all(one.number is not None and 0 <= one.number <= 1 for one in cells)
    known = len(cells) == 1 + len(row.edits)
    return known and between and all(one.change is not None for one in cells[1:])


def draw_trade_off(report: Report) -> Picture | None:
    """What is recovered against the rise of held-out loss; None if either was not measured.

    Recovered by the first attack that is limited and known of every point; else recited word for
    word.
    """
    losses = collect_parts(report, "heldout")
    if not (losses and collect_parts(report, "extraction")):
        return None
    points = [*collect_parts(report, "audit"), *report.front]
    limited = report.settings.max if report.edits[0].audit else {}
    attack = next((name for name in limited if all(name in one.recovered for one in points)), "")
    rises = [0.0, *(loss.difference.mean for loss in losses)]
    base, *edits = [
        Series(name, [Point(rise, 100 * share, y_ends=[100 * end for end in ends])])
        for name, rise, (share, ends) in zip(
            ["base", *name_edits(report)], rises, _list_shares(report, attack), strict=True
        )
    ]
    found = [
        Point(one.loss_increase, 100 * one.recovered.get(attack, one.exact_match))
        for one in report.front
    ]
    front = [base, Series("found by the search", found, "mixed")] if found else []
    what = f"recovered by {attack}, %" if attack else "recited word for word, %"
    panel = FrontPanel(
        "rise of held-out loss, nats per token",
        what,
        edits if front else [base, *edits],
        front=front,
        limit=("y", 100 * limited[attack]) if attack else None,
    )
    return draw_front("", [[panel]]).embed()


def _list_shares(report: Report, attack: str) -> list[tuple[float, Ends]]:
    """What is recovered of the base and of every edit, with intervals."""
    if attack:
        pairs = [one.recovered[attack] for one in collect_parts(report, "audit")]
        return [(one.rate, one.ci95) for one in (pairs[0].base, *(pair.edited for pair in pairs))]
    tests = collect_parts(report, "extraction")
    exact = [one["exact_match"] for one in (tests[0]["baseline"], *tests)]
    return [(one["rate"], one["ci95"]) for one in exact]


def draw_model(report: Report, edit: EditSummary) -> Picture:
    """What a search says that blocks and heads are worth and cost; else which ones are edited."""
    found, size = report.map, (edit.num_blocks, edit.num_heads)
    if found is None or (found.num_blocks, found.num_heads) != size:
        return draw_blocks(edit)
    parts = [Part(p["block"], tuple(p["heads"]), p["variant"]) for p in edit.parts]
    return chart_map(found, parts).embed()


def draw_blocks(edit: EditSummary) -> Picture:
    """The heads of every block; edited ones have the color of their variant."""
    heads = edit.num_heads or 1
    cells: list[list[str | None]] = [[None] * edit.num_blocks for _ in range(heads)]
    whole = [(int(block), range(heads), name) for block, name in edit.attention_free.items()]
    for block, some, variant in (
        *whole,
        *((p["block"], p["heads"], p["variant"]) for p in edit.parts),
    ):
        for head in some:
            cells[head][block] = variant
    grid = Grid("heads", [("", cells)])
    return draw_grid(
        "", [Scale(f"{edit.num_blocks} blocks; edited: {edit.drop_attn}", [grid])]
    ).embed()


def name_edits(report: Report) -> list[str]:
    """Names for the edits in headings: "edited", or their numbers."""
    many = len(report.edits) > 1
    return [str(n) if many else "edited" for n in range(1, len(report.edits) + 1)]
