"""Turns the report of an evaluation into the table and the picture of docs/rivals.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ATTACKS = ("any", "near", "quantized:4", "relearn", "relearn-benign")


def make_rows(report: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row for each edit of a report. `runs`: rival → its seconds and share of bytes changed.

    The seconds of A+B are those of A, of B, and of the export of both together.
    """
    figures = {one["key"]: one for one in report["figures"]}
    scored = [one for one in report["figures"] if one["table"] and "num_fewshot" in one["details"]]
    tasks = [one for one in scored if one["details"]["higher_is_better"]]
    names = [one["details"]["dataset_name"] for one in tasks]
    rows = [["", *ATTACKS, "membership", "cost, nats", *names, "seconds", "changed"]]
    for at, edit in enumerate(report["edits"]):
        run = runs[rival := Path(edit["name"]).name]
        seconds = sum(runs[name]["seconds"] for name in {rival, *rival.split("+")})
        areas = [one for key, one in figures.items() if key.startswith("membership.")]
        rows.append(
            [
                rival,
                *(f"{figures[f'recovered.{name}']['edits'][at]['value']:.1%}" for name in ATTACKS),
                f"{max(area['edits'][at]['value'] for area in areas):.2f}",
                f"{figures['heldout']['edits'][at]['change']['value']:+.3f}",
                *(f"{100 * task['edits'][at]['change']['value']:+.1f}" for task in tasks),
                f"{seconds:.0f}",
                f"{run['changed']:.1%}",
            ]
        )
    return rows


def print_table(folder: Path) -> None:
    """Prints the table of a finished comparison as Markdown, and draws its picture."""
    report = json.loads((folder / "report" / "report.json").read_text())
    runs = json.loads((folder / "runs.json").read_text())
    head, *rows = make_rows(report, runs)
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    draw(report, folder / "rivals.svg")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Recovered after relearning against the held-out loss. Results in one place are one point.

    A rival with the searched edit has the rival's color and a cross.
    """
    from matplotlib.figure import Figure

    places: dict[tuple[float, float], list[str]] = {}
    figures = {one["key"]: one["edits"] for one in report["figures"]}
    models = zip(report["edits"], figures["heldout"], figures["recovered.relearn"], strict=True)
    for edit, loss, relearned in models:
        place = loss["change"]["value"], 100 * relearned["value"]
        places.setdefault(place, []).append(Path(edit["name"]).name)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for place, names in places.items():
        rival, _, also = names[0].partition("+")
        color = colors.setdefault(rival, f"C{len(colors)}")
        marker = "P" if also else "*" if rival.startswith("search") else "o"
        axes.plot(*place, marker, color=color, markersize=9, label=", ".join(names))
    if max(cost for cost, _ in places) > 1:  # one broken model would crowd all others
        axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("held-out loss, increase in nats per token")
    axes.set_ylabel("recovered after relearning, %")
    axes.set_ylim(bottom=-2)
    figure.legend(loc="outside right center")
    figure.savefig(path)
