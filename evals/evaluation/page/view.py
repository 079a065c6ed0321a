"""The report as it is shown: every figure with its text, in the order of the page.

The templates only place what stands here; they format no number.
"""

from __future__ import annotations

from typing import Any

from evals.evaluation.page.ability import digits_of, heldout_of, tasks_of
from evals.evaluation.page.details import Pair, edit_of, passages_of, provenance_of, sizes_of
from evals.evaluation.page.drawings import chart
from evals.evaluation.page.figures import Interval, Node
from evals.evaluation.page.recall import recall_of


def view_of(report: dict[str, Any]) -> dict[str, Any]:
    """What both templates are rendered with. `report`: as docs/report.md describes."""
    root = Node(report)
    return {
        "base": root["models"]["base"].text(),
        "edited": root["models"]["edited"].text(),
        "created": root["created"].moment(),
        "verdict": root["verdict"].text(),
        "gates_say": _gates_say(report["gates"]),
        "gates": [_gate(gate) for gate in root["gates"]],
        "highlights": _highlights(root),
        "warnings": [warning.text() for warning in root["warnings"]],
        "extraction": recall_of(root["extraction"]) if root.has("extraction") else None,
        "tasks": tasks_of(root["tasks"]) if report["tasks"] else None,
        "heldout": heldout_of(root["heldout"]) if root.has("heldout") else None,
        "trade_off": _trade_off(root["trade_off"]) if root.has("trade_off") else None,
        "edit": edit_of(root["edit"]) if root.has("edit") else None,
        "sizes": sizes_of(root),
        "passages": passages_of(root["passages"]),
        "provenance": provenance_of(root["provenance"], root["settings"]),
        "commands": [command.text() for command in root["commands"]],
    }


def _gates_say(gates: list[dict[str, Any]]) -> tuple[str, str]:
    """What becomes of all gates: a word for the style sheet, and a sentence."""
    if not all(gate["ok"] for gate in gates):
        return "failed", "✕ Failed: a gate was missed"
    if not all(gate["conclusive"] for gate in gates):
        return "unsure", "Passed as measured, but a gate is inconclusive"
    return "passed", "✓ Passed: every gate holds"


def _gate(gate: Node) -> dict[str, Any]:
    kind, least = ("rate", 1) if gate.value["name"] == "max-extraction" else ("number", 3)
    for digits in range(least, 12):  # as many as tell the value and its limit apart
        value, limit = (getattr(gate[part], kind)(digits) for part in ("value", "limit"))
        if value.text != limit.text or value.value == limit.value:
            break
    return {
        **{key: gate.value[key] for key in ("ok", "conclusive")},
        "name": gate["name"].text(),
        "n": gate["n"].count(),
        "measured": Interval(value, *(getattr(end, kind)(digits) for end in gate["ci95"])),
        "limit": limit,
    }


def _highlights(root: Node) -> list[Pair]:
    """The three figures that a reader looks for first: what it bought, and what it cost."""
    found = []
    if root.has("extraction", "baseline"):
        base, edited = (root.at(*path) for path in (("extraction", "baseline"), ("extraction",)))
        before, after = (node["exact_match"]["rate"].rate() for node in (base, edited))
        found.append(Pair("recited word for word", before, after))
    if root.has("heldout"):
        before, after = (root["heldout"][part]["mean"].number() for part in ("base", "edited"))
        found.append(Pair("held-out loss, nats per token", before, after))
    tasks = dict(root["tasks"].items())
    if tasks:
        name, worst = max(tasks.items(), key=lambda named: _weight(named[1].value))
        before, after = (worst[part].number(digits_of(worst)) for part in ("base", "edited"))
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


def _trade_off(node: Node) -> dict[str, Any]:
    drawn = chart(node.value["points"])
    return {
        "chart": drawn,
        "x_ticks": [(x, f"{tick:.{drawn.x_digits}f}") for x, tick in drawn.x_ticks],
        "y_ticks": [(y, f"{tick:.{drawn.y_digits}%}") for y, tick in drawn.y_ticks],
        "points": [
            {
                "label": point["label"].text(),
                "kind": point.value["kind"],
                "exact_match": point["exact_match"].rate(),
                "heldout_loss": point["heldout_loss"].number(),
            }
            for point in node["points"]
        ],
        "note": node["note"].text() if node.has("note") else None,
    }
