"""A grid of cells: a column for each block, and rows of heads, of groups of heads, or of blocks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evals.table.charts.chart import LOOKS, NARROW, WIDE, Chart, Size, join_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = Sequence[Sequence[float | str | None]]
"""[rows][columns], from the lowest row up. A name has the color of its series; None is empty."""
_COLORS = ("Blues", "Oranges")
_DECADES = 1e3  # what a logarithmic scale spans at most
_MOST_NUMBERS = 14  # rows up to which every one has its number


class Grid(NamedTuple):
    """Rows in sections, from below; those of a section without a name have their numbers.

    `outlined`: cells (row, column), rows counted through all sections.
    """

    label: str
    sections: Sequence[tuple[str, Cells]]
    outlined: Collection[tuple[int, int]] = ()


class Scale(NamedTuple):
    """Grids in one unit, one below the other."""

    label: str
    grids: Sequence[Grid]
    log: bool = False


def draw_grid(title: str, scales: Sequence[Scale]) -> Chart:
    """A column of panels for each scale."""
    grids = scales[0].grids
    rows = sum(len(cells) for _, cells in grids[0].sections)

    def measure(narrow: bool) -> Size:
        panels = len(grids) * (len(scales) if narrow else 1)
        return NARROW if narrow else WIDE, 1.0 + panels * (0.5 + 0.09 * min(rows, 48))

    def paint(figure: Figure, narrow: bool) -> None:
        shape = (len(scales) * len(grids), 1) if narrow else (len(grids), len(scales))
        panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
        columns = panels.reshape(len(scales), -1) if narrow else panels.T
        for column, scale, colors in zip(columns, scales, _COLORS, strict=False):
            _paint_scale(figure, column, scale, colors)
            column[-1].set_xlabel("block")
        for axes in panels.flat:
            axes.label_outer()
            _name_cells(axes, grids[0].sections)

    what, names = (join_names([one.label for one in some]) for some in (scales, grids))
    outlined = " The edit is outlined." if any(g.outlined for s in scales for g in s.grids) else ""
    alt = f"A grid with a column for each block: {what}. Rows: {names}.{outlined}"
    return Chart(title, alt, paint, measure)


def _paint_scale(figure: Figure, column: Sequence[Axes], scale: Scale, colors: str) -> None:
    """The cells of all grids, and what their colors mean."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize, to_rgba

    cells = [cell for grid in scale.grids for _, s in grid.sections for row in s for cell in row]
    numbers = [cell for cell in cells if isinstance(cell, float | int)]
    most = max([*numbers, 1e-9])
    norm: Any = Normalize(0, max(most, 1.0))
    if scale.log:
        norm = LogNorm(min(max(min(numbers), most / _DECADES), most / 10), most)

    def choose_color(cell: float | str | None) -> Any:
        if isinstance(cell, float | int):
            return matplotlib.colormaps[colors](norm(max(cell, norm.vmin)))
        return to_rgba("0.93" if cell is None else LOOKS[cell]["color"])

    for axes, grid in zip(column, scale.grids, strict=True):
        axes.set_ylabel(grid.label)
        rows = [row for _, some in grid.sections for row in some]
        axes.imshow(
            [[choose_color(cell) for cell in row] for row in rows],
            aspect="auto", origin="lower", extent=(-0.5, len(rows[0]) - 0.5, 0, len(rows)),
        )  # fmt: skip
        _outline(axes, grid.outlined)
    if numbers:
        ticks = np.geomspace(norm.vmin, norm.vmax, 4) if scale.log else None
        figure.colorbar(
            ScalarMappable(norm, colors), ax=list(column), label=scale.label, location="top",
            aspect=40, ticks=ticks, format=lambda value, place: f"{value:.2g}",
        ).minorticks_off()  # fmt: skip
    for name in dict.fromkeys(cell for cell in cells if isinstance(cell, str)):
        column[0].bar(0, 0, color=LOOKS[name]["color"], label=name)


def _name_cells(axes: Axes, sections: Sequence[tuple[str, Cells]]) -> None:
    """Says what rows and columns are, for panels that share their axes."""
    from matplotlib.ticker import MaxNLocator

    start, ticks, columns = 0, [], len(sections[0][1][0])
    for name, cells in sections:
        each = 1 if len(cells) <= _MOST_NUMBERS else 4
        numbers = [(start + at + 0.5, str(at)) for at in range(0, len(cells), each)]
        ticks += [(start + len(cells) / 2, name)] if name else numbers
        axes.axhline(start, color="white", linewidth=2)
        start += len(cells)
    axes.set_yticks(*zip(*ticks, strict=True))
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(0, start))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    axes.grid(False)


def _outline(axes: Axes, cells: Collection[tuple[int, int]]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    look: Any = {"fill": False, "linewidth": 1.4, "zorder": 3, "clip_on": False}
    for row, column in cells:
        box = Rectangle((column - 0.5, row), 1, 1, label="chosen", **look)
        box.set_path_effects([withStroke(linewidth=3, foreground="w")])
        axes.add_patch(box)
