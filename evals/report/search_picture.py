"""Draws the result of a search, the JSON object of `search --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.report.charts.chart import Chart
from evals.report.charts.front import FrontPanel, draw_front
from evals.report.charts.panels import Point, Series


def chart_search(result: Mapping[str, Any]) -> Chart:
    """The Pareto front of a search.

    Beside it are the chosen edit, if there is one, and that of the deepest blocks: filled as
    measured on the half that was searched, hollow on the half that was held back. The cost is the
    goal's: KL divergence under --max-extraction, else the rise of held-out loss.
    """
    base, measure = result["base"], result["measure"]
    by_kl = "max_extraction" in result["goal"]

    def place(edit: Mapping[str, Any], before: Mapping[str, Any]) -> Point:
        rise = edit["heldout_loss"] - before["heldout_loss"]
        return Point(edit["heldout_kl"] if by_kl else rise, 100 * edit["recovered"][measure])

    found: dict[str, list[Point]] = {}
    for edit in result["front"]:
        found.setdefault(edit["variant"], []).append(place(edit, base))
    front = [Series("unedited", [Point(0.0, 100 * base["recovered"][measure])], "base")]
    front += [Series(f"Pareto front, {name}", points, name) for name, points in found.items()]
    series = []
    for name, key in (("deep blocks", "deep_blocks"), ("chosen", "selected")):
        edit = result[key]
        if edit is not None:
            back = edit["held_back"] if key == "deep_blocks" else result["held_back"]
            spec = edit["spec"] if len(edit["spec"]) <= 24 else edit["spec"][:23] + "…"
            there = place(back, base["held_back"])
            series.append(Series(f"{name}, on the other half", [there], name, hollow=True))
            series.append(Series(f"{name}: {spec}", [place(edit, base)], name))
    (limit,) = result["goal"].values()
    cost = "KL divergence on held-out text" if by_kl else "rise of held-out loss"
    what = "recited word for word" if measure == "greedy" else f"recovered ({measure})"
    panel = FrontPanel(
        f"{cost}, nats per token",
        f"{what}, %",
        series,
        front=front,
        limit=("y", 100 * limit) if by_kl else ("x", limit),
    )
    names, grain = ", ".join(result["variants"]), result["grain"]
    where = "blocks and heads" if grain == "mixed" else grain
    title = f"{result['model']}, search over {where} ({names}), n = {result['n']}"
    return draw_front(title, [[panel]])
