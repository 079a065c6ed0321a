"""What the models recite, what an attacker gets, and what they can do: rows with pictures."""

from __future__ import annotations

from typing import Any

from evals.evaluation.page.drawings import Axis, nice_axis
from evals.evaluation.page.figures import Figure, Interval, Node
from evals.memorization.measures import MEASURES


def recall_of(node: Node, chose: Node) -> dict[str, Any]:
    """Rates by count, and other measures.

    `node`: the report's `extraction`, which has a baseline; `chose`: the report's.

    Each row has the places of its figures, intervals and whiskers.
    """
    base, paired = node["baseline"], node["paired"]
    lines = [("held back" if chose["passages"].value else "all passages", node, base, paired)]
    if node.has("by_count"):
        strata = zip(node["by_count"], base["by_count"], paired["by_count"], strict=True)
        lines += [(_seen(parts[0].value["count"]), *parts) for parts in strata]
    ends = [part.value["exact_match"]["ci95"][1] for _, *parts, _ in lines for part in parts]
    axis = nice_axis([0.0, *ends], margin=8)
    rows = []
    for label, edited, before, change in lines:
        pair = [part["exact_match"].interval("rate") for part in (before, edited)]
        rows.append(
            {
                "label": label,
                "n": edited["n"],
                "pair": pair,
                "difference": change["exact_match_difference"].interval("points"),
                "whiskers": [
                    (kind, axis.whisker(interval))
                    for kind, interval in zip(("base", "edited"), pair, strict=True)
                ],
            }
        )
    return {"rows": rows, "ticks": axis.named(axis.percent), "measures": _measures(node, base)}


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
            show = "rate" if "%" in form else "number"
            before, after = (part.at(*path).interval(show) for part in (base, node))
            rows.append((label, before, after))
    return rows


def all_passages_of(node: Node) -> list[tuple[str, Interval, Interval]]:
    """`node`: the report's `all_passages`. What was recovered, and the loss on held-out text."""
    shares = {"recited word for word": node["recited"]}
    shares |= {f"recovered by {name}": each for name, each in node["recovered"].items()}
    rows = [
        (label, each["base"].interval("rate"), each["edited"].interval("rate"))
        for label, each in shares.items()
    ]
    if node.has("heldout"):
        loss = node["heldout"]
        before, after = (loss[part].interval("number") for part in ("base", "edited"))
        rows.append(("held-out loss, nats per token", before, after))
    return rows


_PARTS = ("base", "edited", "control")


def audit_of(node: Node) -> dict[str, Any]:
    """`node`: the report's `audit`. Attacks that recover passages, and areas of membership."""
    attacks = list(node["attacks"])
    rated = [attack for attack in attacks if attack.has("paired")]
    shares = [
        {part: attack[part].interval("rate") for part in _PARTS if attack.has(part)}
        for attack in rated
    ]
    axis = nice_axis([0.0, *(i.high.value for each in shares for i in each.values())], margin=8)
    return {
        "rows": [
            {
                "attack": attack,
                "shares": each,
                "whiskers": [(part, axis.whisker(share)) for part, share in each.items()],
            }
            for attack, each in zip(rated, shares, strict=True)
        ],
        "ticks": axis.named(axis.percent),
        "curves": [_curve(attack) for attack in rated if attack.has("curve")],
        "areas": [row for attack in attacks if not attack.has("paired") for row in _areas(attack)],
    }


def _curve(attack: Node) -> tuple[Node, list[tuple[Figure, list[Figure]]]]:
    """The attack, and for each number of steps what it gets of base, edited model and control."""
    curves = [attack["curve"][part] for part in _PARTS if attack.has("curve", part)]
    return attack, [
        (curves[0]["stages"][i].count(), [curve["any"][i].rate() for curve in curves])
        for i in range(len(curves[0].value["stages"]))
    ]


def _areas(attack: Node) -> list[tuple[str, Interval, Interval]]:
    if not attack.has("edited"):
        return []
    both = zip(attack["base"].items(), attack["edited"].items(), strict=True)
    return [
        (score, before.interval("number"), after.interval("number"))
        for (score, before), (_, after) in both
    ]


_METRICS = {
    "acc": "the share answered right",
    "acc_norm": "the share answered right, choices compared by likelihood for each character",
    "perplexity": "e to the power of the mean loss",
    "word_perplexity": "e to the power of the mean loss for each word",
    "byte_perplexity": "e to the power of the mean loss for each byte",
    "bits_per_byte": "the mean loss for each byte, in bits",
}
"""What lm-eval's names of metrics say."""


def digits_of(*scores: Node) -> int:
    """Decimals that show a difference of the size that matters, for scores and perplexities."""
    largest = max(abs(score.value) for score in scores)
    return next((digits for digits, high in ((3, 10), (2, 100), (1, 1_000)) if largest < high), 0)


def tasks_of(tasks: Node) -> dict[str, Any]:
    """`tasks`: the report's, at least one. Accuracies share one picture; others have none."""
    values = [task.value for _, task in tasks.items()]
    scored = dict.fromkeys(task["metric"] for task in values)
    drawn = [number for task in values if not _own_scale(task) for number in task["ci95"]]
    axis = nice_axis(drawn, about=0.0, margin=8) if drawn else None
    return {
        "rows": [_row(name, task, axis) for name, task in tasks.items()],
        "ticks": [] if axis is None else axis.named(f"+.{axis.digits}f"),
        "metrics": {name: _METRICS[name] for name in scored if name in _METRICS},
        "zero": None if axis is None else axis.x(0.0),
    }


def _own_scale(task: dict[str, Any]) -> bool:
    """Whether a task's difference cannot stand on the axis of accuracies."""
    return task["drop_is_relative"] or not all(0 <= task[part] <= 1 for part in ("base", "edited"))


def _row(name: str, task: Node, axis: Axis | None) -> dict[str, Any]:
    digits = digits_of(task["base"], task["edited"])
    difference = task.interval("signed", digits)
    return {
        "name": name,
        "task": task,
        "digits": digits,
        "difference": difference,
        "whisker": None if axis is None or _own_scale(task.value) else axis.whisker(difference),
    }
