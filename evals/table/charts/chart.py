"""A chart: how it looks, how it is saved, and how a page embeds it.

The same figures give the same bytes. A marker, a line style, or a number repeats what a color says,
and no legend covers data.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from surgery.card.facts import make_printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = tuple[float, float]
"""Width and height in inches."""
Ends = Sequence[float]
"""Both ends of a 95 % interval, or nothing."""
WIDE, NARROW = 7.4, 3.7
"""Inches; the second for small screens, where the first would shrink its text."""
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
    "text.parse_math": False,  # names may hold dollar signs
}
_PLAIN: Any = {"Date": None, "Creator": None}
LOOKS: dict[str, dict[str, Any]] = {
    "identity": {"color": "#000000", "marker": "o", "linestyle": "-", "markersize": 8.5},
    "zero": {"color": "#8f2d00", "marker": "s", "linestyle": "--", "markersize": 6.5},
    "mean": {"color": "#009e73", "marker": "^", "linestyle": "-.", "markersize": 5.0},
    "linear": {"color": "#4a9bd9", "marker": "D", "linestyle": ":", "markersize": 3.0},
    "mixed": {"color": "0.35", "marker": "P", "linestyle": "-", "markersize": 5.0},
    "base": {"color": "#6a7077", "marker": "o", "markerfacecolor": "none", "markersize": 9.0},
    "never trained on": {"color": "#4a9bd9", "marker": "|", "markersize": 9.0},
    "chosen": {"color": "#e69f00", "marker": "*", "markeredgecolor": "black", "markersize": 12},
    "deep blocks": {"color": "#e69f00", "marker": "X", "markeredgecolor": "black", "markersize": 9},
}
"""How a series of this name looks in every chart. Variants go from dark to light; later ones are
smaller, so that points in one place all show."""
_ORDER = [("#0b57b0", "o"), ("#8f2d00", "s"), ("#00754f", "^"), ("#8a5a00", "D"), ("#6b3fa0", "v")]
_LINES = ("-", "--", "-.", ":")


class Chart(NamedTuple):
    """`paint` fills an empty figure; `measure` gives its size. Both get whether it is narrow.

    `alt`: a description for screen readers.
    """

    title: str
    alt: str
    paint: Callable[[Figure, bool], None]
    measure: Callable[[bool], Size]

    def save(self, folder: Path, name: str) -> list[Path]:
        """Saves the chart with its title, as NAME.png and NAME.svg."""
        png, svg = folder / f"{name}.png", folder / f"{name}.svg"
        title = clean(self.title)
        about = {"Title": title, "Description": clean(self.alt)}
        with self.open(title=title) as figure:
            figure.savefig(png, dpi=160, metadata={"Software": None, **about})
            figure.savefig(svg, metadata={**_PLAIN, **about})
        return [png, svg]

    def embed(self) -> Picture:
        """Makes SVGs for a page, which has its own heading. Text stays text."""

        def make_url(narrow: bool) -> str:
            file = StringIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own font lacks letters that browsers have
                with self.open({"svg.fonttype": "none"}, narrow=narrow) as figure:
                    figure.savefig(file, format="svg", metadata=_PLAIN)
            data = base64.b64encode(file.getvalue().encode()).decode()
            return f"data:image/svg+xml;base64,{data}"

        return Picture(make_url(narrow=False), make_url(narrow=True), self.alt)

    @contextmanager
    def open(self, more: Any = None, *, title: str = "", narrow: bool = False) -> Iterator[Figure]:
        """The painted figure, with one legend below the panels."""
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({**_SETTINGS, **(more or {})}):
            figure = Figure(figsize=self.measure(narrow), layout="constrained")
            self.paint(figure, narrow)
            figure.suptitle(title)
            _add_legend(figure)
            yield figure


class Picture(NamedTuple):
    """`wide`, `narrow`: SVGs as data: URLs. `alt`: a description for screen readers."""

    wide: str
    narrow: str
    alt: str


def choose_looks(names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Color, marker, and line of each series: those of its name, or else of its place."""
    others: dict[str, int] = {}
    for name in names:
        place = others.setdefault(name, len(others)) if name not in LOOKS else 0
        color, marker = _ORDER[place % len(_ORDER)]
        size, line = max(7.5 - 1.2 * place, 3.5), _LINES[place % len(_LINES)]
        own = {"color": color, "marker": marker, "linestyle": line, "markersize": size}
        yield dict(LOOKS.get(name, own))


def measure_panels(rows: int, columns: int, narrow: bool) -> Size:
    """The size of a figure of `rows` × `columns` panels, one below the other if `narrow`."""
    if narrow:
        return NARROW, 0.8 + 2.3 * rows * columns
    return max(WIDE, 1 + 3.2 * columns), 1.3 + max(2.2 * rows, 2.4)


def clean(text: str) -> str:
    """Text of other people's without control characters, line by line."""
    return "\n".join(map(make_printable, text.split("\n")))


def join_names(names: Sequence[str]) -> str:
    """Each name once, for a text alternative."""
    return ", ".join(dict.fromkeys(names))


def _add_legend(figure: Figure) -> None:
    """Adds a legend in as many columns as fit the width of the figure."""
    shown = {
        clean(label): handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    for columns in range(min(len(shown), 5), 0, -1):
        legend = figure.legend(
            list(shown.values()), list(shown), loc="outside lower center", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()
