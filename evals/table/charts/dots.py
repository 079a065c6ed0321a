"""Dots with intervals: a line for each row, with a dot for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from evals.table.charts.chart import NARROW, WIDE, Chart, Ends, clean, join_names
from evals.table.charts.panels import Point, Series, paint_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONGEST = 48


class Dot(NamedTuple):
    """A share, or a difference of shares, and its interval."""

    value: float
    ends: Ends = ()


def draw_dots(
    title: str,
    label: str,
    rows: Sequence[str],
    dots: Mapping[str, Sequence[Dot | None]],
    limits: Sequence[float | None] = (),
) -> Chart:
    """Draws shares in percent. `dots`: series → its dot in each row, None if not measured.

    `limits`: of each row, the largest share allowed, if there is one.
    """
    shown = {name: some for name, some in dots.items() if any(some)}

    def paint(figure: Figure, narrow: bool) -> None:
        axes = figure.subplots()
        series = []
        for k, (name, some) in enumerate(shown.items()):
            shift = 0.5 * ((k + 0.5) / len(shown) - 0.5)
            points = [
                Point(100 * dot.value, at + shift, [100 * end for end in dot.ends])
                for at, dot in enumerate(some)
                if dot
            ]
            series.append(Series(name, points))
        paint_series(axes, series)
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=1)
        for at, limit in enumerate(limits):
            if limit is not None:
                axes.vlines(100 * limit, at - 0.45, at + 0.45, "0.3", label="limit")
        names = [clean(name) for name in rows]
        names = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
        axes.set_yticks(range(len(rows)), [] if narrow else names)
        axes.set_ylim(len(rows) - 0.5, -0.75 if narrow else -0.5)
        for at, name in enumerate(names if narrow else ()):
            axes.annotate(name, (0.01, at - 0.4), xycoords=("axes fraction", "data"), va="center")
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:g}%".replace("-", "−"))
        axes.set_xlabel(label.replace(", 95", ",\n95") if narrow else label)

    alt = f"Dots of {label}: {join_names([*shown])}. Rows: {join_names(rows)}."
    height = len(rows)
    return Chart(
        title,
        alt,
        paint,
        lambda narrow: (NARROW, 1.0 + 0.55 * height) if narrow else (WIDE, 1.2 + 0.34 * height),
    )
