"""Draws a report's pictures as SVG inside the page. Its tables hold the same figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.drawing import LINES, draw_svg
from evals.evaluation.report import EditSummary, Report
from evals.evaluation.rows import NATS, SHARE, Ends, Row, Table, collect_parts
from evals.model_map import measure_height, paint_map
from surgery.card.facts import make_printable
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


def draw_table(table: Table, names: Sequence[str]) -> Picture | None:
    """A line per row, with a dot and its 95 % interval, in percent, for every model.

    Shares of passages, or else differences from the base of scores between 0 and 1. None if the
    table has neither.
    """
    rows = [row for row in table.rows if _is_share(row)]
    label = "share of passages, 95 % intervals"
    alt = f"{table.heading}: every model's shares in the table, with their intervals."
    dots: list[list[Dot]] = [
        [
            None if one is None or one.number is None else (one.number, one.ci95)
            for one in (row.base, *row.edits)
        ]
        for row in rows
    ]
    if not rows:
        rows = [row for row in table.rows if _is_score(row)]
        label = "change from the base in percentage points, 95 % intervals"
        alt = "The differences from the base in the table, with their intervals."
        dots = [
            [None, *((one.change or 0.0, one.change_ci95) for one in row.edits if one)]
            for row in rows
        ]
    if not rows:
        return None
    shown = [at for at in range(len(names) + 1) if any(row[at] for row in dots)]

    def paint(narrow: bool, figure: Figure) -> None:
        axes = figure.subplots()
        for k, at in enumerate(shown):
            shift = 0.5 * ((k + 0.5) / len(shown) - 0.5)
            for place, found in enumerate(row[at] for row in dots):
                if found:
                    x, ends = [100 * found[0]], _measure_sides(*found)
                    name = ("base", *names)[at]
                    axes.errorbar(
                        x, [place + shift], xerr=ends, ls="", label=name, **_choose_style(at)
                    )
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=1)
        _name_rows(axes, rows, narrow=narrow)
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}%".replace("-", "−"))
        axes.set_xlabel(label.replace(", 95", "\n95") if narrow else label)

    return _make_picture(paint, 0.8 + 0.34 * len(rows), alt, narrow=1.0 + 0.5 * len(rows))


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


def _measure_sides(value: float, ends: Ends) -> list[list[float]]:
    """How far an interval reaches below and above a value, in percent."""
    low, high = ends or (value, value)
    return [[100 * max(0.0, value - low)], [100 * max(0.0, high - value)]]


def draw_trade_off(report: Report) -> Picture | None:
    """What is recovered against the rise of held-out loss; None if either was not measured.

    Recovered by the first attack that is limited and known of every point; else recited word for
    word.
    """
    losses = collect_parts(report, "heldout")
    if not (losses and collect_parts(report, "extraction")):
        return None
    points: list[Any] = [*collect_parts(report, "audit"), *report.front]
    limited = report.settings.max if report.edits[0].audit else ()
    attack = next((name for name in limited if all(name in one.recovered for one in points)), "")
    names, shares = ["base", *name_edits(report)], _list_shares(report, attack)
    rises = [0.0, *(loss.difference.mean for loss in losses)]
    what = f"recovered by {attack}" if attack else "recited word for word"

    def paint(narrow: bool, figure: Figure) -> None:
        axes, front = figure.subplots(), report.front
        if front:
            found = sorted((p.loss_increase, p.recovered.get(attack, p.exact_match)) for p in front)
            costs, left = zip((0.0, shares[0][0]), *found, strict=True)
            style: dict[str, Any] = {"color": "0.45", "linestyle": ":", "drawstyle": "steps-post"}
            style |= {"marker": "o", "markersize": 4, "markeredgecolor": "white", "zorder": 5}
            axes.plot(costs, [100 * share for share in left], label="found by the search", **style)
        for at, (name, x, (share, ends)) in enumerate(zip(names, rises, shares, strict=True)):
            sides, style = _measure_sides(share, ends), _choose_style(at)
            axes.errorbar([x], [100 * share], yerr=sides, ls="", label=name, **style)
        axes.set_ylim(bottom=-3)
        axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}%")
        axes.set(ylabel=what, xlabel="rise of held-out loss, nats per token")

    alt = f"The share of passages {what} against the rise of held-out loss: the base, the edits" + (
        " and what a search found." if report.front else "."
    )
    return _make_picture(paint, 3.2, alt)


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
            color = LINES[variant]["color"]
            axes.bar(places, counts, bottom=starts, color=color, label=variant)
        axes.set(xlabel="block", ylabel="heads")
        axes.locator_params(integer=True)
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


def _name_rows(axes: Axes, rows: Sequence[Row], *, narrow: bool) -> None:
    """Names beside the rows, or above them if there is no room."""
    labels = [_shorten(row.label) for row in rows]
    axes.set_yticks(range(len(rows)), [] if narrow else labels)
    axes.set_ylim(len(rows) - 0.5, -0.75 if narrow else -0.5)
    for place, label in enumerate(labels if narrow else ()):
        axes.annotate(label, (0, place - 0.36), xycoords=("axes fraction", "data"), va="center")


def _shorten(label: str) -> str:
    """A name as short plain text; unescaped dollar signs would start a formula."""
    text = make_printable(label).replace("$", r"\$")
    return text if len(text) <= 48 else text[:47] + "…"


def _find_runs(heads: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending heads → (first, count) of each stretch without a gap."""
    stretches = groupby(enumerate(heads), key=lambda pair: pair[1] - pair[0])
    found = [[head for _, head in stretch] for _, stretch in stretches]
    return [(stretch[0], len(stretch)) for stretch in found]
