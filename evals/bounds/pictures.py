"""Draws what an edit of one block does to later blocks, and the bound on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.drawing import draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERS = 14  # blocks up to which every cell holds its number
_SERIES = (
    ("measured", "measured_mean", "black", "o", "-"),
    ("bound", "bound_mean", "#8f2d00", "s", "--"),
    ("bound in closed form", "pairwise_mean", "#4a9bd9", "^", ":"),
)


def draw_divergence(divergence: Mapping[str, Any], folder: Path, *, model: str) -> list[Path]:
    """Draws `propagation` and `bounds` of `evals.bounds.divergence.measure_bounds`."""
    more = f"(identity, n = {divergence['tokens']:,} tokens)"
    propagation, blocks = divergence["propagation"], divergence["blocks"]
    title = f"{model}: how far an edit carries {more}"
    drawn = draw_propagation(propagation, folder, title=title)
    return drawn + _draw_bounds(
        blocks, folder, f"{model}: what attention adds to each block {more}"
    )


def draw_propagation(
    matrix: Sequence[Sequence[float | None]], folder: Path, *, title: str
) -> list[Path]:
    """`propagation.png`, `propagation.svg`: how far the edit of each block carries."""
    blocks = len(matrix)
    values = [[float("nan") if x is None else 100 * x for x in row] for row in matrix]
    darkest = max(100 * x for row in matrix for x in row if x is not None)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        image = axes.imshow(values, cmap="Greys", vmin=0, vmax=darkest)
        axes.set(xlabel="residual that leaves block …, and the logits", ylabel="edited block")
        at = list(range(0, blocks, 1 if blocks <= _MOST_NUMBERS else 4))
        axes.set_xticks([*at, blocks], [*map(str, at), "logits"])
        axes.set_yticks(at)
        middle = {"ha": "center", "va": "center"}
        for row, line in enumerate(values if blocks <= _MOST_NUMBERS else []):
            for column, value in enumerate(line[row:], start=row):
                color = "white" if value > darkest / 2 else "black"
                axes.text(column, row, f"{value:.0f}", middle, color=color, size=8)
        figure.colorbar(image, label="‖difference‖ / ‖unedited‖, %", shrink=0.8)

    side = min(3.2 + 0.42 * blocks, 9.0)
    return draw(paint, folder, "propagation", title=title, size=(side + 1.3, side))


def _draw_bounds(records: Sequence[Mapping[str, Any]], folder: Path, title: str) -> list[Path]:
    """`bounds.png`, `bounds.svg`: what attention's mixing changes in each block, and its bounds."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        at = [record["block"] for record in records]
        for label, key, color, marker, line in _SERIES:
            values = [100 * record[key] for record in records]
            axes.plot(at, values, label=label, color=color, marker=marker, linestyle=line)
        axes.set(yscale="log", xlabel="block")
        axes.set_ylabel("‖difference‖ / ‖residual‖, mean over tokens, %")
        for numbers in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            numbers(lambda value, place: f"{value:g}")
        axes.locator_params(axis="x", integer=True)

    return draw(paint, folder, "bounds", title=title, size=(6.0, 3.8))
