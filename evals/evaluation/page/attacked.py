"""What an attacker gets, in rows with a picture each."""

from __future__ import annotations

from typing import Any

from evals.evaluation.page.drawings import nice_axis
from evals.evaluation.page.figures import Figure, Interval, Node

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
