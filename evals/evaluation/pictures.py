"""Draws a report's pictures as SVG inside the page. Its tables hold the same figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.drawing import draw_svg, line_of
from evals.evaluation.report import EditReport, EditSummary, Report
from evals.evaluation.tables import SHARE, Ends, Row, Table
from evals.model_map import measure_height, paint_map
from surgery.selection import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Dot = tuple[float, Ends] | None
"""A figure and its interval; None: not measured."""

_BASE = {"color": "#6a7077", "marker": "o", "markerfacecolor": "none", "markersize": 9.0}
_EDITS = [("#0b57b0", "o"), ("#8f2d00", "s"), ("#00754f", "^"), ("#8a5a00", "D"), ("#6b3fa0", "v")]
_WIDTH, _NARROW = 7.2, 3.7
"""Inches; the second for small screens, where the first would shrink its text and intervals."""


class Picture(NamedTuple):
    """`wide`, `narrow`: SVGs as data: URLs. `alt`: a description for screen readers."""

    wide: str
    narrow: str
    alt: str


def draw_shares(table: Table, names: Sequence[str]) -> Picture | None:
    """Shares of every model with their intervals, one line per row; None without shares."""
    rows = [row for row in table.rows if row.base and row.base.form is SHARE and row.base.ci95]

    def list_dots(row: Row) -> list[Dot]:
        return [(c.number, c.ci95) if c else None for c in (row.base, *row.edits)]

    alt = f"{table.heading}: every model's shares in the table, with their intervals."
    return _draw_rows(rows, list_dots, ("base", *names), "share of passages, 95 % intervals", alt)


def draw_changes(table: Table, names: Sequence[str]) -> Picture | None:
    """Differences from the base, of scores between 0 and 1; None without such scores."""
    rows = [row for row in table.rows if _is_share_of_one(row)]

    def list_dots(row: Row) -> list[Dot]:
        changes = (
            (c.change, c.change_ci95) if c and c.change is not None else None for c in row.edits
        )
        return [None, *changes]

    alt = "The differences from the base in the table, with their intervals."
    label = "change from the base in percentage points, 95 % intervals"
    return _draw_rows(rows, list_dots, ("base", *names), label, alt)


def _draw_rows(
    rows: Sequence[Row],
    list_dots: Callable[[Row], list[Dot]],
    names: Sequence[str],
    label: str,
    alt: str,
) -> Picture | None:
    """A line per row, with a dot and an interval in percent for every model. None without rows.

    `list_dots`: a row → the figure of each of `names`, and its interval.
    """
    if not rows:
        return None
    dots = [list_dots(row) for row in rows]
    shown = [at for at in range(len(names)) if any(row[at] for row in dots)]

    def paint(narrow: bool, figure: Figure) -> None:
        axes = figure.subplots()
        for at, shift in zip(shown, _find_offsets(len(shown)), strict=True):
            for place, found in enumerate(row[at] for row in dots):
                if found:
                    x, (low, high) = found[0], found[1] or (found[0], found[0])
                    ends = [[100 * max(0.0, x - low)], [100 * max(0.0, high - x)]]
                    axes.errorbar(
                        [100 * x], [place + shift], xerr=ends, ls="", label=names[at],
                        **_choose_style(at),
                    )  # fmt: skip
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=1)
        _name_rows(axes, rows, narrow=narrow)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}%".replace("-", "−"))
        axes.set_xlabel(label.replace(", 95", "\n95") if narrow else label)

    return _make_picture(paint, 0.8 + 0.34 * len(rows), alt, narrow=1.0 + 0.5 * len(rows))


def _is_share_of_one(row: Row) -> bool:
    cells = [row.base, *row.edits]
    bounded = all(cell is not None and 0 <= cell.number <= 1 for cell in cells)
    return bounded and all(cell is not None and cell.change is not None for cell in row.edits)


def draw_trade_off(report: Report) -> Picture | None:
    """What is recovered against the rise of held-out loss; None if either was not measured.

    Recovered by the first attack that is limited and known of every point; else recited word for
    word.
    """
    measured = [edit for edit in report.edits if edit.extraction and edit.heldout]
    if not measured:
        return None
    attack = _choose_attack(report, measured)
    base, _ = _find_shares(measured[0], attack)

    def paint(narrow: bool, figure: Figure) -> None:
        axes = figure.subplots()
        front = sorted(
            (p.loss_increase, p.recovered.get(attack, p.exact_match)) for p in report.front
        )
        if front:
            points = [(0.0, base[0]), *front]
            style: dict[str, Any] = {"color": "0.45", "linestyle": ":", "drawstyle": "steps-post"}
            style |= {"marker": "o", "markersize": 4, "markeredgecolor": "white", "zorder": 5}
            axes.plot(*_in_percent(points), label="found by the search", **style)
        _draw_point(axes, 0.0, base, _choose_style(0), "base")
        for place, (name, edit) in enumerate(zip(name_edits(report), report.edits, strict=True), 1):
            if edit.extraction and edit.heldout:
                _, found = _find_shares(edit, attack)
                rise = edit.heldout.difference.mean
                _draw_point(axes, rise, found, _choose_style(place), name)
        axes.set_ylim(bottom=-3)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}%")
        axes.set_ylabel(f"recovered by {attack}" if attack else "recited word for word")
        axes.set_xlabel("rise of held-out loss, nats per token")

    what = f"recovered by {attack}" if attack else "recited word for word"
    alt = f"The share of passages {what} against the rise of held-out loss: the base, the edits" + (
        " and what a search found." if report.front else "."
    )
    return _make_picture(paint, 3.2, alt)


def _choose_attack(report: Report, measured: Sequence[EditReport]) -> str:
    """The attack to show, or empty."""
    return next(
        (
            name
            for name in report.settings.max
            if all(edit.audit and name in edit.audit.recovered for edit in measured)
            and all(name in point.recovered for point in report.front)
        ),
        "",
    )


def _find_shares(edit: EditReport, attack: str) -> list[tuple[float, Ends]]:
    """What is recovered of the base and of an edit, with intervals."""
    if attack and edit.audit is not None:
        pair = edit.audit.recovered[attack]
        return [(one.rate, one.ci95) for one in (pair.base, pair.edited)]
    after = edit.extraction or {}
    exact = [one["exact_match"] for one in (after["baseline"], after)]
    return [(one["rate"], one["ci95"]) for one in exact]


def _in_percent(points: Sequence[tuple[float, float]]) -> list[list[float]]:
    return [[x for x, _ in points], [100 * y for _, y in points]]


def draw_model(report: Report, edit: EditSummary) -> Picture:
    """What a search says that blocks and heads are worth and cost; else which ones are edited."""
    found, size = report.map, (edit.num_blocks, edit.num_heads)
    if found is None or (found.num_blocks, found.num_heads) != size:
        return draw_blocks(edit)
    parts = [Part(p["block"], tuple(p["heads"]), p["variant"]) for p in edit.parts]

    def paint(narrow: bool, figure: Figure) -> None:
        paint_map(figure, found, parts, narrow=narrow)

    alt = f"What each unit is worth and costs alone; the edit, {edit.drop_attn}, is outlined"
    return _make_picture(
        paint, measure_height(found), alt, narrow=measure_height(found, narrow=True)
    )


def draw_blocks(edit: EditSummary) -> Picture:
    """The heads of every block; edited ones have the color of their variant."""
    heads = edit.num_heads or 1

    def paint(narrow: bool, figure: Figure) -> None:
        axes, blocks = figure.subplots(), range(edit.num_blocks)
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

    return _make_picture(paint, 1.8, f"{edit.num_blocks} blocks; edited: {edit.drop_attn}")


def name_edits(report: Report) -> list[str]:
    """Names for the edits in headings: "edited", or their numbers."""
    many = len(report.edits) > 1
    return [str(n) if many else "edited" for n in range(1, len(report.edits) + 1)]


def _make_picture(
    paint: Callable[[bool, Figure], None], height: float, alt: str, *, narrow: float | None = None
) -> Picture:
    """`paint` gets whether the figure is narrow, and the figure; heights are in inches."""
    urls = []
    for thin, size in ((False, (_WIDTH, height)), (True, (_NARROW, narrow or height))):
        svg = draw_svg(partial(paint, thin), size=size)
        urls.append("data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode())
    return Picture(urls[0], urls[1], alt)


def _choose_style(place: int) -> dict[str, Any]:
    """Color and marker of the base (0) or of an edit; smaller ones lie on top of larger ones."""
    if place == 0:
        return _BASE
    color, marker = _EDITS[(place - 1) % len(_EDITS)]
    return {"color": color, "marker": marker, "markersize": max(8.0 - 1.3 * place, 3.5)}


def _draw_point(
    axes: Axes, x: float, found: tuple[float, Ends], style: dict[str, Any], name: str
) -> None:
    y, (low, high) = found
    error = [[100 * max(0.0, y - low)], [100 * max(0.0, high - y)]]
    axes.errorbar([x], [100 * y], yerr=error, ls="", label=name, **style)


def _find_offsets(n: int) -> list[float]:
    """Vertical offsets of one row's models, from the top."""
    return [0.5 * ((k + 0.5) / n - 0.5) for k in range(n)]


def _name_rows(axes: Axes, rows: Sequence[Row], *, narrow: bool) -> None:
    """Names beside the rows, or above them if there is no room."""
    labels = [_shorten(row.label) for row in rows]
    axes.set_yticks(range(len(rows)), [] if narrow else labels)
    axes.set_ylim(len(rows) - 0.5, -0.75 if narrow else -0.5)
    for place, label in enumerate(labels if narrow else ()):
        axes.annotate(label, (0, place - 0.36), xycoords=("axes fraction", "data"), va="center")


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
