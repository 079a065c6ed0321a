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
    scored = report["edits"][0]["tasks"] or {}
    tasks = [name for name, one in scored.items() if one["higher_is_better"]]
    rows = [["", *ATTACKS, "membership", "cost, nats", *tasks, "seconds", "changed"]]
    for edit in report["edits"]:
        run = runs[rival := Path(edit["name"]).name]
        seconds = sum(runs[name]["seconds"] for name in {rival, *rival.split("+")})
        rows.append(
            [
                rival,
                *(f"{share:.1%}" for share in recovered_by(edit).values()),
                f"{membership_of(edit):.2f}",
                f"{edit['heldout']['difference']['mean']:+.3f}",
                *(f"{100 * edit['tasks'][name]['difference']:+.1f}" for name in tasks),
                f"{seconds:.0f}",
                f"{run['changed']:.1%}",
            ]
        )
    return rows


def recovered_by(edit: Mapping[str, Any]) -> dict[str, float]:
    found = {one["name"]: one["edited"] for one in edit["audit"]["attacks"]}
    return {name: found[name]["rate"] for name in ATTACKS}


def membership_of(edit: Mapping[str, Any]) -> float:
    """The highest AUC of any membership score, on the edited model."""
    (found,) = (one for one in edit["audit"]["attacks"] if one["name"] == "membership")
    return max(area["auc"] for area in found["edited"].values())


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
    for edit in report["edits"]:
        place = edit["heldout"]["difference"]["mean"], 100 * recovered_by(edit)["relearn"]
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
