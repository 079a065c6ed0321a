"""Draws what every attack recovers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.report.charts.dots import Dot, draw_dots
from evals.report.charts.lines import LinePanel, draw_lines
from evals.report.charts.panels import Point, Series

PICTURES = ("audit", "curves")


def draw_audit(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the object of `audit --json`.

    `audit`: a line per attack, with its shares and 95 % intervals. `curves`: what comes back over
    the steps of fine-tuning, for attacks that train.
    """
    rated = [attack for attack in result["attacks"] if "paired" in attack]
    drawn, n = [], result["n"]
    if rated:
        names = {"base": "base", "edited": "edited", "control": "never trained on"}
        dots = {name: [_make_dot(attack[key]) for attack in rated] for key, name in names.items()}
        limits = {limit["name"]: limit["limit"] for limit in result["limits"]}
        chart = draw_dots(
            f"What an attacker recovers of {n} passages",
            "passages recovered, 95 % intervals",
            [_name_row(attack, n) for attack in rated],
            dots,
            [limits.get(attack["name"]) for attack in rated],
        )
        drawn += chart.save(folder, "audit")
    curves = {one["name"]: one["curve"]["edited"] for one in rated if one.get("curve")}
    if curves:
        series = [
            Series(
                name, [Point(x, 100 * y) for x, y in zip(one["stages"], one["any"], strict=True)]
            )
            for name, one in curves.items()
        ]
        panel = LinePanel("steps of fine-tuning", "recovered (any), %", series)
        title = "What comes back of the edited model's passages by fine-tuning"
        drawn += draw_lines(title, [[panel]]).save(folder, "curves")
    return drawn


def _make_dot(share: Mapping[str, Any] | None) -> Dot | None:
    return Dot(share["rate"], share["ci95"]) if share is not None and share["n"] else None


def _name_row(attack: Mapping[str, Any], n: int) -> str:
    """With the number of passages that the attack counts, where it is not the number of all."""
    counted, name = attack["edited"]["n"], str(attack["name"])
    return (
        name if counted == n else f"{name} (n = {counted})" if counted else f"{name} (none counts)"
    )
