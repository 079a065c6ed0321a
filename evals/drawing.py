"""What all pictures share: how they look, and how they are saved.

Every picture is saved as PNG and as SVG, and the same figures give the same bytes. Whatever color
tells, a marker, a line style or a number tells as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
_LINES: dict[str, dict[str, Any]] = {  # from dark to light
    "identity": {"color": "#000000", "marker": "o", "linestyle": "-"},
    "zero": {"color": "#8f2d00", "marker": "s", "linestyle": "--"},
    "mean": {"color": "#009e73", "marker": "^", "linestyle": "-."},
    "linear": {"color": "#4a9bd9", "marker": "D", "linestyle": ":"},
    "mixed": {"color": "0.35", "marker": "P", "linestyle": "-"},
}


def draw(
    paint: Callable[[Figure], None],
    folder: Path,
    name: str,
    *,
    title: str,
    size: tuple[float, float],
) -> list[Path]:
    """Saves what `paint` puts on an empty figure (`size` in inches) as NAME.png and NAME.svg."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title)
        paint(figure)
        png, svg = folder / f"{name}.png", folder / f"{name}.svg"
        figure.savefig(png, dpi=160, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return [png, svg]


def line_of(variant: str) -> dict[str, Any]:
    """Color, marker and line style of a variant or of "mixed", the same in every picture."""
    return _LINES[variant]


def by_depth(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    blocks: Sequence[int],
    num_blocks: int,
    *,
    marker: str,
    label: str,
    numbered: bool,
) -> Any:
    """Points colored by their block, from light to dark so that it shows in gray as well.

    Large and with the block's number where they are `numbered`, else small.
    """
    groups = [[index] for index in range(len(points))] if numbered else [[*range(len(points))]]
    drawn = None
    for some in groups or [[]]:
        first = some[0] if some else 0
        above = 3 + first / len(points) if numbered and some else 2.0
        drawn = axes.scatter(
            [points[index][0] for index in some],
            [points[index][1] for index in some],
            c=[blocks[index] for index in some],
            cmap="viridis_r",
            vmin=0,
            vmax=num_blocks - 1,
            marker=marker,
            s=60 if numbered else 9,
            label="_again" if first else label,
            zorder=above,
        )
        for index in some if numbered else ():  # what lies above a point hides its number too
            (x, y), block = points[index], blocks[index]
            color = "white" if 2 * block >= num_blocks else "black"
            middle = {"ha": "center", "va": "center_baseline"}
            axes.text(x, y, str(block), middle, color=color, size=5, zorder=above)
    return drawn


def whole_numbers(axes: Axes) -> None:
    """No ticks between two blocks."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
