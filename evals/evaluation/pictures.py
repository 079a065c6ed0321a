"""Draws a report's pictures as SVG inside the page. Its tables hold the same figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.drawing import draw_svg, line_of
from evals.evaluation.report import EditSummary, Report
from evals.evaluation.tables import SHARE, Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASE = {"color": "#6a7077", "marker": "o", "markerfacecolor": "white"}
_EDITS = [("#0b57b0", "o"), ("#8f2d00", "s"), ("#00754f", "^"), ("#8a5a00", "D"), ("#6b3fa0", "v")]
_WIDTH = 7.2  # inches


class Picture(NamedTuple):
    """`source`: the SVG as a data: URL. `alt`: its description for screen readers."""

    source: str
    alt: str


def draw_shares(table: Table) -> Picture | None:
    """Shares of every model with their intervals, one line per row; None without shares."""
    rows = [row for row in table.rows if row.base and row.base.form is SHARE and row.base.ci95]
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            cells = [row.base, *row.edits]
            for at, (shift, cell) in enumerate(zip(_find_offsets(len(cells)), cells, strict=True)):
                if cell is not None:
                    _draw_dot(axes, cell.number, place + shift, cell.ci95, _choose_style(at))
        _name_rows(axes, rows)
        axes.set_xlim(left=-0.01)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_xlabel("share of passages, with 95 % intervals")

    alt = f"{table.heading}: every model's shares in the table, with their intervals."
    return _make_picture(paint, 0.5 + 0.34 * len(rows), alt)


def draw_changes(table: Table) -> Picture | None:
    """Differences from the base, of scores between 0 and 1; None without such scores."""
    rows = [row for row in table.rows if _is_share_of_one(row)]
    if not rows:
        return None

    def paint(axes: Axes) -> None:
        axes.axvline(0, color="0.4", linestyle=":", linewidth=1)
        for place, row in enumerate(rows):
            for at, (shift, cell) in enumerate(
                zip(_find_offsets(len(row.edits)), row.edits, strict=True), start=1
            ):
                if cell is not None and cell.change is not None:
                    _draw_dot(axes, cell.change, place + shift, cell.change_ci95, _choose_style(at))
        _name_rows(axes, rows)
        axes.set_xlabel("difference from the base, with 95 % intervals")

    alt = "The differences from the base in the table, with their intervals."
    return _make_picture(paint, 0.5 + 0.34 * len(rows), alt)


def _is_share_of_one(row: Row) -> bool:
    cells = [row.base, *row.edits]
    bounded = all(cell is not None and 0 <= cell.number <= 1 for cell in cells)
    return bounded and all(cell is not None and cell.change is not None for cell in row.edits)


def draw_trade_off(report: Report) -> Picture | None:
    """Recitation against the rise of held-out loss; None if either was not measured."""
    measured = [edit for edit in report.edits if edit.extraction and edit.heldout]
    if not measured:
        return None
    base = (measured[0].extraction or {})["baseline"]["exact_match"]

    def paint(axes: Axes) -> None:
        front = sorted((one.loss_increase, one.exact_match) for one in report.front)
        if front:
            across, up = zip(*front, strict=True)
            axes.plot(across, up, ":", color="0.45", marker=".", label="found by the search")
        _draw_point(axes, 0.0, base, _choose_style(0), "base")
        names = name_edits(report)
        for place, edit in enumerate(report.edits, start=1):
            if edit.extraction and edit.heldout:
                rise, found = edit.heldout.difference.mean, edit.extraction["exact_match"]
                _draw_point(axes, rise, found, _choose_style(place), names[place - 1])
        axes.set_ylim(bottom=-0.02)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.set_ylabel("recited word for word")
        axes.set_xlabel("rise of held-out loss, nats per token")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    alt = (
        "The share of passages recited word for word against the rise of held-out loss: the base, "
        "the edits" + (" and what a search found." if report.front else ".")
    )
    return _make_picture(paint, 3.2, alt)


def draw_blocks(edit: EditSummary) -> Picture:
    """The heads of every block; edited ones have the color of their variant."""
    heads = edit.num_heads or 1

    def paint(axes: Axes) -> None:
        blocks = range(edit.num_blocks)
        axes.bar(blocks, heads, color="0.94", edgecolor="0.8", linewidth=0.5)
        runs = [(int(block), 0, heads, v) for block, v in edit.attention_free.items()]
        runs += [
            (p["block"], *run, p["variant"]) for p in edit.parts for run in _find_runs(p["heads"])
        ]
        for variant in dict.fromkeys(run[-1] for run in runs):
            places, starts, counts, _ = zip(*(r for r in runs if r[-1] == variant), strict=True)
            color = line_of(variant)["color"]
            axes.bar(places, counts, bottom=starts, color=color, label=variant)
        axes.set_ylabel("heads")
        axes.set_xlabel("block")
        axes.xaxis.set_major_locator(_make_integer_locator())
        axes.yaxis.set_major_locator(_make_integer_locator())
        axes.grid(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return _make_picture(paint, 1.6, f"{edit.num_blocks} blocks; edited: {edit.drop_attn}")


def name_edits(report: Report) -> list[str]:
    """Names for the edits in headings: "edited", or their numbers."""
    many = len(report.edits) > 1
    return [str(n) if many else "edited" for n in range(1, len(report.edits) + 1)]


def _make_picture(paint: Callable[[Axes], None], height: float, alt: str) -> Picture:
    def whole(figure: Any) -> None:
        paint(figure.subplots())

    svg = draw_svg(whole, size=(_WIDTH, height))
    return Picture("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(), alt)


def _choose_style(place: int) -> dict[str, Any]:
    """Color and marker of the base (0) or of an edit."""
    if place == 0:
        return _BASE
    color, marker = _EDITS[(place - 1) % len(_EDITS)]
    return {"color": color, "marker": marker}


def _draw_dot(axes: Axes, x: float, y: float, ends: Sequence[float], style: dict[str, Any]) -> None:
    low, high = ends or (x, x)
    axes.errorbar([x], [y], xerr=[[max(0.0, x - low)], [max(0.0, high - x)]], ls="", **style)


def _draw_point(
    axes: Axes, x: float, found: dict[str, Any], style: dict[str, Any], name: str
) -> None:
    y, (low, high) = found["rate"], found["ci95"]
    error = [[max(0.0, y - low)], [max(0.0, high - y)]]
    axes.errorbar([x], [y], yerr=error, ls="", label=name, **style)


def _find_offsets(n: int) -> list[float]:
    """Vertical offsets of one row's models, from the top."""
    return [0.5 * ((k + 0.5) / n - 0.5) for k in range(n)]


def _name_rows(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [_shorten(row.label) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _shorten(label: str) -> str:
    """A name as short plain text; unescaped dollar signs would start a formula."""
    text = "".join(one if one.isprintable() else " " for one in label).replace("$", r"\$")
    return text if len(text) <= 48 else text[:47] + "…"


def _find_runs(heads: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending heads → (first, count) of each stretch without a gap."""
    stretches = groupby(enumerate(heads), key=lambda pair: pair[1] - pair[0])
    found = [[head for _, head in stretch] for _, stretch in stretches]
    return [(stretch[0], len(stretch)) for stretch in found]


def _make_integer_locator() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)
