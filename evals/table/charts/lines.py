"""Lines by block, or by anything else that is counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from evals.table.charts.chart import Chart, join_names, measure_panels
from evals.table.charts.panels import WHOLE, Series, arrange_panels, paint_series

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LinePanel(NamedTuple):
    """`level`: what the unedited model has. `whole`: y goes from 0 to 100 %."""

    xlabel: str
    ylabel: str
    series: Sequence[Series]
    title: str = ""
    level: float | None = None
    whole: bool = False


def draw_lines(title: str, panels: Sequence[Sequence[LinePanel]]) -> Chart:
    """Rows of panels, each with a line for every series."""
    every = [panel for row in panels for panel in row]

    def paint(figure: Figure, narrow: bool) -> None:
        for axes, panel in arrange_panels(figure, panels, narrow):
            if panel.level is not None:
                axes.axhline(panel.level, label="unedited", color="0.5", linewidth=0.8)
            paint_series(axes, panel.series, joined=True, scale=0.75)
            axes.locator_params(axis="x", integer=True)
            if panel.whole:
                axes.set_ylim(WHOLE)

    names = join_names([one.label for panel in every for one in panel.series])
    what = join_names([f"{panel.ylabel} by {panel.xlabel}" for panel in every])
    shape = len(panels), max(map(len, panels))
    return Chart(
        title, f"Lines of {what}: {names}.", paint, lambda narrow: measure_panels(*shape, narrow)
    )
