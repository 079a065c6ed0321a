"""Draws the result of a search, the JSON object of `search --json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.drawing import LINES, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINEAR = 0.01  # nats: below, the axis is linear, so that it holds 0 as well
_CHOSEN: dict[str, Any] = {
    "color": "#e69f00", "linestyle": "none", "markeredgecolor": "black"
}  # fmt: skip
_GOAL: dict[str, Any] = {
    "color": "0.4", "linestyle": (0, (4, 3)), "linewidth": 0.8, "label": "goal"
}  # fmt: skip
Place = tuple[float, float]
"""What an edit costs, in nats per token, and what it leaves recovered, in percent."""


def draw_front(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the Pareto front of a search: `front.png`, `front.svg`.

    Beside it are the chosen edit, if there is one, and that of the deepest blocks: filled as
    measured on the half that was searched, hollow on the half that was held back. Smaller markers
    lie on larger ones, so that points in one place all show. The cost is the goal's: KL divergence
    under --max-extraction, else the rise of held-out loss.
    """
    base, measure = result["base"], result["measure"]
    by_kl = "max_extraction" in result["goal"]

    def place(edit: Mapping[str, Any], before: Mapping[str, Any]) -> Place:
        rise = edit["heldout_loss"] - before["heldout_loss"]
        return float(edit["heldout_kl"] if by_kl else rise), 100 * edit["recovered"][measure]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        steps = [(0.0, 100 * base["recovered"][measure])]
        for edit in result["front"]:
            steps.append(place(edit, base))
            dots = {**LINES[edit["variant"]], "linestyle": "none", "markersize": 4, "zorder": 6}
            axes.plot(*steps[-1], label=f"Pareto front, {edit['variant']}", **dots)
        axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color="0.6", zorder=1)
        for name, key, marker in (("deep blocks", "deep_blocks", "X"), ("chosen", "selected", "*")):
            edit = result[key]
            if edit is not None:
                back = edit["held_back"] if key == "deep_blocks" else result["held_back"]
                there = place(back, base["held_back"])
                spec = edit["spec"] if len(edit["spec"]) <= 24 else edit["spec"][:23] + "…"
                style: dict[str, Any] = {**_CHOSEN, "marker": marker}
                axes.plot(
                    *place(edit, base), label=f"{name}: {spec}", markersize=11, zorder=5, **style
                )
                hollow = {**style, "color": "none", "markersize": 15, "zorder": 4}
                axes.plot(*there, label=f"{name}, on the other half", **hollow)
        (limit,) = result["goal"].values()
        (axes.axhline if by_kl else axes.axvline)(100 * limit if by_kl else limit, **_GOAL)
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.autoscale()
        left, right = axes.dataLim.intervalx
        axes.set_xlim(min(left, 0) - _LINEAR / 10, 1.3 * right)
        axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
        cost = "KL divergence on held-out text" if by_kl else "rise of held-out loss"
        what = "recited word for word" if measure == "greedy" else f"recovered ({measure})"
        axes.set(xlabel=f"{cost}, nats per token", ylabel=f"{what}, %", ylim=(-3, 103))

    names, grain = ", ".join(result["variants"]), result["grain"]
    what = "blocks and heads" if grain == "mixed" else grain
    title = f"{result['model']}, search over {what} ({names}), n = {result['n']}"
    return draw(paint, folder, "front", title=title, size=(7.5, 4.6))
