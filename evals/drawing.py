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


def svg_text(paint: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """What `paint` puts on an empty figure, as SVG to stand in a page. Text in it stays text."""
    import warnings
    from io import StringIO

    import matplotlib
    from matplotlib.figure import Figure

    file = StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that its own font lacks; a browser has others
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


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
    every = slice(len(points))
    groups = [slice(i, i + 1) for i in range(len(points))] if numbered else [every]
    for some in groups or [every]:
        first = some.start or 0
        above = 3 + first / len(points) if numbered and points else 2.0
        drawn = axes.scatter(
            [x for x, _ in points[some]],
            [y for _, y in points[some]],
            c=blocks[some],
            cmap="viridis_r",
            vmin=0,
            vmax=num_blocks - 1,
            marker=marker,
            s=60 if numbered else 9,
            label="_again" if first else label,
            zorder=above,
        )
        if numbered and points:  # what lies above a point hides its number too
            block, middle = blocks[first], {"ha": "center", "va": "center_baseline"}
            color = "white" if 2 * block >= num_blocks else "black"
            axes.text(*points[first], str(block), middle, color=color, size=5, zorder=above)
    return drawn


def add_legend(figure: Figure) -> None:
    """Below the panels: whatever any of them shows, once."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    shown = {label: handle for some in pairs for handle, label in some}
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=min(len(shown), 5)
    )


def whole_numbers(axes: Axes) -> None:
    """No ticks between two blocks."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
