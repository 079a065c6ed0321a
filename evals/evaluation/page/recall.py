"""What the models recite, as it is shown: rates by how often a passage was seen, and the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evals.evaluation.page.drawings import Axis, Whisker, nice_axis
from evals.evaluation.page.figures import Figure, Interval, Node
from evals.memorization.measures import MEASURES


@dataclass(frozen=True)
class Row:
    """One line of the extraction table: rates of exactly recited passages, and both whiskers."""

    label: str
    n: Figure
    base: Interval
    edited: Interval
    difference: Interval
    whiskers: tuple[Whisker, Whisker]


def recall_of(node: Node) -> dict[str, Any]:
    """`node`: the report's `extraction`, which has a baseline."""
    base, paired = node["baseline"], node["paired"]
    lines = [("all passages", node, base, paired)]
    if node.has("by_count"):
        strata = zip(node["by_count"], base["by_count"], paired["by_count"], strict=True)
        lines += [(_seen(parts[0].value["count"]), *parts) for parts in strata]
    ends = [part.value["exact_match"]["ci95"][1] for _, *parts, _ in lines for part in parts]
    axis = nice_axis([0.0, *ends], margin=8)
    rows = [_row(*line, axis) for line in lines]
    return {
        "n": node["n"].count(),
        "prefix_length": node["prefix_length"].count(),
        "suffix_length": node["suffix_length"].count(),
        "rows": rows,
        "by_count": len(rows) > 1,
        "ticks": axis.named(f".{max(0, axis.digits - 2)}%"),
        "forgotten": paired["forgotten"].count(),
        "newly_extracted": paired["newly_extracted"].count(),
        "p_value": paired["p_value"].p_value(),
        "measures": _measures(node, base),
        "selectivity": paired["selectivity"].interval("signed", middle="value")
        if paired.has("selectivity")
        else None,
    }


def _row(label: str, node: Node, base: Node, paired: Node, axis: Axis) -> Row:
    before, after = (part["exact_match"].interval("rate", middle="rate") for part in (base, node))
    difference = paired["exact_match_difference"].interval("points", middle="value")
    whiskers = axis.whisker(before.values), axis.whisker(after.values)
    return Row(label, node["n"].count(), before, after, difference, whiskers)


def _seen(count: str) -> str:
    """How often the passages of a stratum were seen in training."""
    return {"0": "never seen", "1": "seen once"}.get(count, f"seen {count.replace('-', '–')} times")


def _measures(node: Node, base: Node) -> list[tuple[str, Interval, Interval]]:
    """Label, base and edited, of what else the test measures; some only where it was asked for."""
    shown = [(one.phrase, one.path, one.form) for one in MEASURES if one.phrase]
    shown.append(("loss on control text, nats per token", ("control", "nll"), ""))
    rows = []
    for label, path, form in shown:
        if node.has(*path):
            middle = "rate" if node.has(*path, "rate") else "mean"
            show = "rate" if "%" in form else "number"
            before, after = (part.at(*path).interval(show, middle=middle) for part in (base, node))
            rows.append((label, before, after))
    return rows
