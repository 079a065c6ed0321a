"""What the templates are rendered with: the record, and what is worked out from it.

A template places the record's figures itself, by name; the rest is here, in the order of the page.
"""

from __future__ import annotations

from typing import Any

from evals.attacks.result import Audit
from evals.evaluation.page.details import Pair, edit_of, provenance_of, sizes_of
from evals.evaluation.page.drawings import chart
from evals.evaluation.page.figures import Figure, Interval, Node
from evals.evaluation.page.measured import all_passages_of, audit_of, digits_of, recall_of, tasks_of


def view_of(report: dict[str, Any]) -> dict[str, Any]:
    """`report`: as docs/report.md describes."""
    root = Node(report)
    return {
        "report": root,
        "gates_say": _gates_say(report["gates"]),
        "gates": [_gate(gate) for gate in root["gates"]],
        "highlights": _highlights(root),
        "recall": recall_of(root["extraction"], root["chose"]) if root.has("extraction") else None,
        "audit": audit_of(root["audit"]) if root.has("audit") else None,
        "all_passages": all_passages_of(root["all_passages"]) if root.has("all_passages") else [],
        "tasks": tasks_of(root["tasks"]) if report["tasks"] else None,
        "chart": chart(report["trade_off"]["points"]) if root.has("trade_off") else None,
        "blocks_of": edit_of(root["edit"]) if root.has("edit") else None,
        "sizes": sizes_of(root),
        "provenance": provenance_of(root["provenance"], root["settings"]),
    }


def _gates_say(gates: list[dict[str, Any]]) -> tuple[str, str]:
    """What becomes of all gates: a word for the style sheet, and a sentence."""
    if not all(gate["ok"] for gate in gates):
        return "failed", "✕ Failed: a gate was missed"
    if not all(gate["conclusive"] for gate in gates):
        return "unsure", "Passed as measured, but a gate is inconclusive"
    return "passed", "✓ Passed: every gate holds"


def _gate(gate: Node) -> dict[str, Any]:
    of_tasks = gate.value["name"].startswith("max-drop")
    kind, least = ("number", 3) if of_tasks else ("rate", 1)
    for digits in range(least, 12):  # as many as tell the value and its limit apart
        value, limit = (getattr(gate[part], kind)(digits) for part in ("value", "limit"))
        if value.text != limit.text or value.value == limit.value:
            break
    ends = (getattr(end, kind)(digits) for end in gate["ci95"])
    return {**gate.value, "gate": gate, "measured": Interval(value, *ends), "limit": limit}


def _highlights(root: Node) -> list[Pair]:
    """The figures that a reader looks for first: what it bought, and what it cost."""
    found = []
    if root.has("extraction", "baseline"):
        base, edited = root["extraction"]["baseline"], root["extraction"]
        before, after = (node["exact_match"]["rate"].rate() for node in (base, edited))
        found.append(Pair("recited word for word", before, after))
    checked = Audit.model_validate(root["audit"].value) if root.has("audit") else None
    if checked and (most := checked.strongest):
        (worst,) = (one for one in root["audit"]["attacks"] if one.value["name"] == most.name)
        before, after = (worst[part]["rate"].rate() for part in ("base", "edited"))
        tie = len(checked.tied) > 1
        which = "strongest attacks, which tie" if tie else f"strongest attack, {most.name}"
        found.append(Pair(f"recovered by the {which}", before, after))
    if root.has("heldout"):
        before, after = (root["heldout"][part]["mean"].number() for part in ("base", "edited"))
        found.append(Pair("held-out loss, nats per token", before, after))
    tasks = dict(root["tasks"].items())
    if tasks:
        name, worst = max(tasks.items(), key=lambda named: _weight(named[1].value))
        scores = worst["base"], worst["edited"]
        before, after = (score.number(digits_of(*scores)) for score in scores)
        what = _WORST.get(worst.value["outcome"], "no loss shown on any task")
        found.append(Pair(f"{name}, {worst.value['metric']}: {what}", before, after))
    return found


_WORST = {"loss": "the largest loss", "inconclusive": "inconclusive"}


def _weight(task: dict[str, Any]) -> tuple[bool, bool, bool, float]:
    """Losses first, then what is inconclusive.

    Orders drops of accuracies, after those of perplexities, which have no common scale.
    """
    outcome = (task["outcome"] == "loss", task["outcome"] == "inconclusive")
    return *outcome, not task["drop_is_relative"], task["drop"]


def beside_of(record: dict[str, Any]) -> dict[str, Any]:
    """Several edits: a row for each figure, a column for each edit.

    `record`: that of `evals.evaluation.side_by_side.SideBySide`.
    """
    root, points = Node(record), record["points"]
    names = ["base", *map(str, range(1, len(points)))]
    return {
        "beside": root,
        "columns": list(root["columns"]),
        "rows": [_row(row) for row in root["rows"]],
        "chart": chart(points, names) if points else None,
    }


def _row(row: Node) -> dict[str, Any]:
    unit, values = row.value["unit"], [row["base"], *(cell["value"] for cell in row["edits"])]
    kind, change = ("rate", "points") if unit == "share" else ("number", "signed")
    digits = (digits_of(*values),) if unit == "score" else ()

    def shown(node: Node, show: str) -> Figure:
        figure: Figure = getattr(node, show)(*digits)
        return figure

    return {
        "name": row["name"],
        "n": row["n"],
        "base": shown(row["base"], kind),
        "cells": [
            (
                shown(cell["value"], kind),
                Interval(
                    shown(cell["difference"], change), *(shown(end, change) for end in cell["ci95"])
                ),
            )
            for cell in row["edits"]
        ],
    }
