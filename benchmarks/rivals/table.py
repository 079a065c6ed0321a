"""Turns the report of an evaluation into the table and the picture of docs/rivals.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ATTACKS = ("any", "near", "quantized:4", "relearn", "relearn-benign")


def make_rows(report: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """One row for each edit of a report. `runs`: rival → its seconds and share of bytes changed."""
    rows = [["", *ATTACKS, "membership", "cost, nats", *report["edits"][0]["tasks"], "seconds",
             "bytes changed"]]  # fmt: skip
    for edit in report["edits"]:
        name = Path(edit["name"]).name
        run = runs[name]
        rows.append(
            [
                name,
                *(f"{share:.1%}" for share in recovered_by(edit).values()),
                f"{membership_of(edit):.2f}",
                f"{edit['heldout']['difference']['mean']:+.3f}",
                *(f"{100 * task['difference']:+.1f}" for task in edit["tasks"].values()),
                f"{run['seconds']:.0f}",
                f"{run['changed']:.1%}",
            ]
        )
    return rows


def recovered_by(edit: Mapping[str, Any]) -> dict[str, float]:
    found = {one["name"]: one["edited"] for one in edit["audit"]["attacks"]}
    return {name: found[name]["rate"] for name in ATTACKS}


def membership_of(edit: Mapping[str, Any]) -> float:
    """The highest AUC of any membership score, on the edited model."""
    scores = edit["audit"]["membership"]["edited"]
    return max(area["auc"] for area in scores.values())


def print_table(folder: Path) -> None:
    """Prints the table of a finished comparison as Markdown, and draws its picture."""
    report = json.loads((folder / "report" / "report.json").read_text())
    runs = json.loads((folder / "runs.json").read_text())
    head, *rows = make_rows(report, runs)
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    draw(report, folder / "rivals.png")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Recovered after relearning against the held-out loss, one point for each edit."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for edit in report["edits"]:
        x, y = edit["heldout"]["difference"]["mean"], 100 * recovered_by(edit)["relearn"]
        axes.plot(x, y, "o")
        axes.annotate(Path(edit["name"]).name, (x, y), xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("held-out loss, increase in nats per token")
    axes.set_ylabel("recovered after relearning, %")
    axes.set_ylim(bottom=-2)
    figure.savefig(path, dpi=150)
