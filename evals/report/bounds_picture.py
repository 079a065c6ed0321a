"""Draws what an edit of one block does to later blocks, and the bound on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.report.charts.chart import Chart
from evals.report.charts.grid import Grid, Scale, draw_grid
from evals.report.charts.lines import LinePanel, draw_lines
from evals.report.charts.panels import Point, Series

_SERIES = {
    "measured": "measured_mean",
    "bound": "bound_mean",
    "bound in closed form": "pairwise_mean",
}


def draw_divergence(divergence: Mapping[str, Any], folder: Path, *, model: str) -> list[Path]:
    """Draws `propagation` and `bounds` of `evals.measure.bounds.divergence.measure_bounds`."""
    more = f"(identity, n = {divergence['tokens']:,} tokens)"
    title = f"{model}: how far an edit carries {more}"
    drawn = chart_propagation(divergence["propagation"], title).save(folder, "propagation")
    series = [
        Series(label, [Point(one["block"], 100 * one[key]) for one in divergence["blocks"]])
        for label, key in _SERIES.items()
    ]
    label = "‖difference‖ / ‖residual‖,\nmean over tokens, %"
    chart = draw_lines(
        f"{model}: what attention adds to each block {more}",
        [[LinePanel("block", label, series, log=True)]],
    )
    return drawn + chart.save(folder, "bounds")


def chart_propagation(matrix: Sequence[Sequence[float | None]], title: str) -> Chart:
    """How far the edit of each block carries: a row for each edited block."""
    values = [[None if x is None else 100 * x for x in row] for row in matrix]
    grid = Grid("edited block", [("", values)])
    scale = Scale("‖difference‖ / ‖unedited‖, %", [grid], numbers=True)
    return draw_grid(title, [scale], xlabel="residual that leaves block …", last="logits")
