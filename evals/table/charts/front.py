"""Cost against recovery: edits as points, and the front of those that no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.table.charts.chart import Chart, join_names, measure_panels
from evals.table.charts.panels import SMALL, WHOLE, Series, arrange_panels, paint_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DEPTH = "viridis_r"
_NEAR = 0.04
"""The side of a block's square, as a share of an axis."""
_LINEAR = (0.01, 1.0)
"""Below these, axes with a front are linear, so that they hold 0 as well; in units of x and y."""


class BlockPoint(NamedTuple):
    """An edit of a block, a group, or a head of `block`."""

    kind: str
    block: int
    x: float
    y: float


class FrontPanel(NamedTuple):
    """What is left, in percent, against a cost.

    - `front`: series whose points, from left to right, a line of steps joins. Both axes are
      logarithmic if there is one.
    - `blocks`: points whose color says the block.
    - `limit`: the axis, "x" or "y", and the value that an edit may have at most.
    """

    xlabel: str
    ylabel: str
    series: Sequence[Series] = ()
    title: str = ""
    front: Sequence[Series] = ()
    blocks: Sequence[BlockPoint] = ()
    limit: tuple[str, float] | None = None


def draw_front(title: str, panels: Sequence[Sequence[FrontPanel]], *, num_blocks: int = 0) -> Chart:
    """Rows of panels. With `num_blocks`, a scale beside them says which color is which block."""
    every = [panel for row in panels for panel in row]

    def paint(figure: Figure, narrow: bool) -> None:
        for axes, panel in arrange_panels(figure, panels, narrow):
            paint_series(axes, panel.series)
            paint_series(axes, panel.front, scale=0.75)
            _paint_blocks(axes, panel.blocks, num_blocks)
            if panel.limit is not None:
                axis, value = panel.limit
                line = axes.axvline if axis == "x" else axes.axhline
                line(value, color="0.4", linestyle=(0, (4, 3)), linewidth=0.8, label="limit")
            if panel.front:
                _join_front(axes, panel)
            else:
                axes.set_ylim(WHOLE)
        if num_blocks:
            from matplotlib.cm import ScalarMappable
            from matplotlib.colors import Normalize

            colors = ScalarMappable(Normalize(0, num_blocks - 1), _DEPTH)
            side: Any = {"location": "top", "aspect": 40} if narrow else {"shrink": 0.8}
            figure.colorbar(colors, ax=figure.axes, label="block", **side)

    names = join_names([one.label for panel in every for one in (*panel.series, *panel.front)])
    what = join_names([f"{panel.ylabel} against {panel.xlabel}" for panel in every])
    shape = len(panels), max(map(len, panels))
    return Chart(
        title, f"Points of {what}: {names}.", paint, lambda narrow: measure_panels(*shape, narrow)
    )


def _join_front(axes: Axes, panel: FrontPanel) -> None:
    points = sorted(point[:2] for one in panel.front for point in one.points)
    axes.plot(*zip(*points, strict=True), drawstyle="steps-post", color="0.6", zorder=1)
    axes.set_xscale("symlog", linthresh=_LINEAR[0])
    axes.set_yscale("symlog", linthresh=_LINEAR[1], subs=[2, 5])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, place: f"{value:g}".replace("-", "−"))
    axes.yaxis.set_minor_formatter(axes.yaxis.get_major_formatter())
    axes.autoscale()
    (left, right), (bottom, top) = axes.dataLim.intervalx, axes.dataLim.intervaly
    bottom = bottom / 1.5 if bottom > 2 * _LINEAR[1] else -_LINEAR[1] / 8
    axes.set(xlim=(min(left, 0) - _LINEAR[0] / 10, 1.3 * right), ylim=(bottom, 1.3 * top))


def _paint_blocks(axes: Axes, points: Sequence[BlockPoint], num_blocks: int) -> None:
    """Points from light to dark, which also works in gray, each where it is.

    Whole blocks are squares with their numbers. Where squares overlap, they let each other through,
    and their numbers stand beside them.
    """
    look: dict[str, Any] = {"cmap": _DEPTH, "vmin": 0, "vmax": num_blocks - 1}
    for kind, (label, marker, size) in SMALL.items():
        for one in (p for p in points if p.kind == kind):
            shown: Any = {"marker": marker, "s": size, "label": label, "zorder": 2}
            axes.scatter(one.x, one.y, c=[one.block], **look, **shown)
    for near in _gather_near([p for p in points if p.kind == "block"]):
        alone = len(near) == 1
        for _, block, x, y in near:
            shown = {"marker": "s", "s": 60, "label": "one block alone", "zorder": 3}
            axes.scatter(x, y, c=[block], alpha=1 if alone else 0.6, **look, **shown)
        _, block, x, y = max(near, key=lambda one: one.x)
        text: Any = {"size": 5, "zorder": 4, "va": "center_baseline"}
        if alone:
            text |= {"ha": "center", "color": "white" if 2 * block >= num_blocks else "black"}
            axes.text(x, y, str(block), **text)
        else:
            numbers = ", ".join(str(one.block) for one in near)
            beside: Any = {"xytext": (6, 0), "textcoords": "offset points"}
            axes.annotate(numbers, (x, y), **beside, **text)


def _gather_near(points: Sequence[BlockPoint]) -> list[list[BlockPoint]]:
    """Points whose squares overlap, together. `WHOLE` is their y axis; the x axis fits them all."""
    xs = [point.x for point in points]
    wide = _NEAR * (max(xs) - min(xs)) if xs else 0.0
    tall = _NEAR * (WHOLE[1] - WHOLE[0])
    found: list[list[BlockPoint]] = []
    for one in points:
        near = [
            some
            for some in found
            if any(abs(one.x - p.x) <= wide and abs(one.y - p.y) <= tall for p in some)
        ]
        found = [some for some in found if some not in near]
        found.append([*(p for some in near for p in some), one])
    return found
