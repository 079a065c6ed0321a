"""The picture of a sweep's estimates. `result` is the JSON object of `sweep --estimate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.drawing import add_legend, by_depth, draw
from evals.sweep.estimates import front_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_estimates(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """What each head and block would cost against what it would move: `estimates.png`, `.svg`.

    A panel for every variant; squares with their number are whole blocks, dots are heads.
    """
    estimates = [e for e in result["estimates"] if min(e["kl"], e["margin"]) > 0]
    variants = list(dict.fromkeys(e["variant"] for e in estimates))
    rows, columns = -(-len(variants) // 2), min(2, len(variants))
    front = front_of(estimates)

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(variants) :]:
            axes.set_axis_off()
        for axes, variant in zip(grid.flat, variants, strict=False):
            axes.set(title=variant, xscale="log", yscale="log")
            axes.plot(
                [e["kl"] for e in front],
                [e["margin"] for e in front],
                color="0.6",
                drawstyle="steps-post",
                label="front of all variants",
                zorder=1,
            )
            for kind, marker, label in (("head", "o", "one head"), ("block", "s", "whole block")):
                some = [e for e in estimates if (e["variant"], e["kind"]) == (variant, kind)]
                points = by_depth(
                    axes,
                    [(e["kl"], e["margin"]) for e in some],
                    [e["block"] for e in some],
                    result["num_blocks"],
                    marker=marker,
                    label=label,
                    numbered=kind == "block",
                )
        for axes in grid[:, 0]:
            axes.set_ylabel("change of recited tokens'\nmargins, nats²")
        for axes in grid[-1]:
            axes.set_xlabel("KL divergence on held-out text, nats per token")
        figure.colorbar(points, ax=grid, label="block", shrink=0.8)
        add_legend(figure)

    on = result["estimated_on"]
    title = (
        f"{result['model']}, estimates from {on['windows']} windows and {on['passages']} passages"
    )
    return draw(paint, folder, "estimates", title=title, size=(8.0, 1.6 + 2.6 * rows))
