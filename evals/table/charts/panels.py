"""Panels with an x and a y axis: the series in them, and how panels stand together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from evals.table.charts.chart import Ends, choose_looks, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHOLE = (-4, 104)
"""The limits of an axis from 0 to 100 %, with room for markers."""
SMALL = {"head": ("one head alone", "o", 9), "group": ("one group of heads alone", "D", 14)}
"""Kind of a series of less than a block → its label, marker, and size."""


class Point(NamedTuple):
    x: float
    y: float
    x_ends: Ends = ()
    y_ends: Ends = ()


class Series(NamedTuple):
    """Points under one label of the legend.

    - `look`: the name whose look they have. By default it is the label.
    - `kind`: "block", or a kind in `SMALL`, whose points are small and have that label instead.
    """

    label: str
    points: Sequence[Point]
    look: str = ""
    kind: str = "block"
    hollow: bool = False


AnyPanel = TypeVar("AnyPanel", bound=Any)


def arrange_panels(
    figure: Figure, grid: Sequence[Sequence[AnyPanel]], narrow: bool
) -> Iterator[tuple[Axes, AnyPanel]]:
    """Yields axes for each panel: rows, which may be short, or one below the other if `narrow`.

    A panel has `xlabel`, `ylabel`, and `title`. Panels with the same label on an axis share it. It
    stands only where the panel to the left, or below, does not have it, too.
    """
    rows = [[panel] for row in grid for panel in row] if narrow else grid
    layout: Any = figure.get_layout_engine()
    layout.set(wspace=0.06, hspace=0.06)
    shape = len(rows), max(map(len, rows))
    places = figure.add_gridspec(*shape)
    shared: dict[tuple[str, str], Axes] = {}
    for at, row in enumerate(rows):
        for column, panel in enumerate(row):
            x, y = ("x", panel.xlabel), ("y", panel.ylabel)
            axes = figure.add_subplot(
                places[at, column], sharex=shared.get(x), sharey=shared.get(y)
            )
            shared |= {x: shared.get(x, axes), y: shared.get(y, axes)}
            below = rows[at + 1][column : column + 1] if at + 1 < len(rows) else []
            repeated = column > 0 and row[column - 1].ylabel == panel.ylabel
            above = any(one.xlabel == panel.xlabel for one in below)
            axes.set(
                title=clean(panel.title),
                xlabel="" if above else clean(panel.xlabel),
                ylabel="" if repeated else clean(panel.ylabel),
            )
            axes.tick_params(labelbottom=not above, labelleft=not repeated)
            yield axes, panel


def paint_series(
    axes: Axes, many: Sequence[Series], *, joined: bool = False, scale: float = 1.0
) -> None:
    """Points with their intervals; `joined`: by lines. Smaller markers lie on larger ones."""
    names = [series.look or series.label for series in many]
    for series, style in zip(many, choose_looks(names), strict=True):
        xs, ys = ([getattr(point, key) for point in series.points] for key in ("x", "y"))
        if series.kind in SMALL:
            label, marker, size = SMALL[series.kind]
            look = {"color": style["color"], "marker": marker, "s": size, "alpha": 0.6}
            axes.scatter(xs, ys, label=label, **look)
            continue
        style["markersize"] = size = scale * style["markersize"] + 3 * series.hollow
        if series.hollow:
            style["markerfacecolor"] = "none"
        if not joined:
            style["linestyle"] = "none"
        ends = ([getattr(point, f"{key}_ends") for point in series.points] for key in ("x", "y"))
        xerr, yerr = map(measure_sides, (xs, ys), ends)
        axes.errorbar(
            xs, ys, yerr, xerr, label=series.label, elinewidth=0.8, zorder=3 - size / 20, **style
        )


def measure_sides(values: Sequence[float], ends: Sequence[Ends]) -> Any:
    """How far intervals reach below and above values: [2][N]; None if there are none."""
    if not any(ends):
        return None
    pairs = [(*one,) if one else (value, value) for value, one in zip(values, ends, strict=True)]
    return [
        [max(0.0, value - low) for value, (low, _) in zip(values, pairs, strict=True)],
        [max(0.0, high - value) for value, (_, high) in zip(values, pairs, strict=True)],
    ]
