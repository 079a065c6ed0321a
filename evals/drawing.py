"""How every picture looks, and how it is saved.

A picture is saved as PNG and as SVG, and the same figures give the same bytes. A marker, a line
style, or a number repeats what a color says. Shares are in percent, and no legend covers data.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.titlesize": "medium",
    "font.size": 9.0,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5.0,
    "svg.hashsalt": "attn-surgery",
}
LINES: dict[str, dict[str, Any]] = {  # from dark to light
    "identity": {"color": "#000000", "marker": "o", "linestyle": "-", "markersize": 8.5},
    "zero": {"color": "#8f2d00", "marker": "s", "linestyle": "--", "markersize": 6.5},
    "mean": {"color": "#009e73", "marker": "^", "linestyle": "-.", "markersize": 5.0},
    "linear": {"color": "#4a9bd9", "marker": "D", "linestyle": ":", "markersize": 3.0},
    "mixed": {"color": "0.35", "marker": "P", "linestyle": "-", "markersize": 5.0},
}
"""How a variant, or "mixed", looks in every picture. Later ones are smaller, so that points in one
place all show."""
_DEPTH = "viridis_r"
_PLAIN: Any = {"Date": None, "Creator": None}
ALONE = {
    "head": "one head alone",
    "group": "one group of heads alone",
    "block": "one block alone",
}
"""Kind of an edit → how a legend calls it, in the order of drawing."""


def draw(
    paint: Callable[[Figure], None],
    folder: Path,
    name: str,
    *,
    title: str,
    size: tuple[float, float],
) -> list[Path]:
    """Saves what `paint` draws on an empty figure (`size` in inches) as NAME.png and NAME.svg.

    Adds one legend below the panels, for labels of panels without a legend of their own.
    """
    with _paint_figure(paint, size) as figure:
        figure.suptitle(title)
        png, svg = folder / f"{name}.png", folder / f"{name}.svg"
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata=_PLAIN)
    return [png, svg]


def draw_svg(paint: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Returns what `paint` draws, as `draw` would, as SVG for a page. Text stays text."""
    file = StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own font lacks letters that browsers have
        with _paint_figure(paint, size, {**_SETTINGS, "svg.fonttype": "none"}) as figure:
            figure.savefig(file, format="svg", metadata=_PLAIN)
    return file.getvalue()


@contextmanager
def _paint_figure(
    paint: Callable[[Figure], None], size: tuple[float, float], settings: Any = _SETTINGS
) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        _add_legend(figure)
        yield figure


def scatter_by_block(
    axes: Axes, points: Iterable[tuple[float, float, int]], num_blocks: int, kind: str
) -> None:
    """Draws points (x, y, block) colored by block, from light to dark, which also works in gray.

    Whole blocks are squares with the block's number, heads dots, and groups of heads diamonds.
    Blocks that share a place stand side by side. `kind`: "block", "group", or "head".
    """
    from matplotlib.transforms import offset_copy

    taken: Counter[tuple[float, float]] = Counter()
    figure: Any = axes.get_figure()
    marker, size = {"block": ("s", 60), "group": ("D", 14), "head": ("o", 9)}[kind]
    label, whole = ALONE[kind], kind == "block"
    for number, (x, y, block) in enumerate(points):
        above = 3 + number / 1000 if whole else 2.0  # a point hides the number of one below it
        place, where = (round(x, 1), round(y, 1)), axes.transData
        if whole and taken[place]:
            where = offset_copy(where, figure, x=8 * taken[place], units="points")
        taken[place] += 1
        axes.scatter(
            x,
            y,
            c=[block],
            cmap=_DEPTH,
            vmin=0,
            vmax=num_blocks - 1,
            marker=marker,
            s=size,
            transform=where,
            label="_again" if number else label,
            zorder=above,
        )
        if whole:
            middle = {"ha": "center", "va": "center_baseline"}
            color = "white" if 2 * block >= num_blocks else "black"
            axes.text(x, y, str(block), middle, color=color, size=5, zorder=above, transform=where)


def add_block_colors(figure: Figure, axes: Iterable[Axes], num_blocks: int) -> None:
    """Adds the color scale of `scatter_by_block` beside `axes`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(0, num_blocks - 1), _DEPTH)
    figure.colorbar(colors, ax=list(axes), label="block", shrink=0.8)


def _add_legend(figure: Figure) -> None:
    """Adds a legend in as many columns as fit the width of the figure."""
    shown = {
        label: handle
        for axes in figure.axes
        if axes.get_legend() is None
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    for columns in range(min(len(shown), 5), 0, -1):
        legend = figure.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
