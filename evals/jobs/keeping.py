"""The results of a mitigation side by side, and which of them to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from evals.measure.verdicts import shorten_list
from surgery.record.report import Report, State

Result = Literal["cut", "healed", "erased", "erased-cut", "erased-healed"]
RESULTS: dict[Result, str] = {
    "cut": "the cut",
    "healed": "the cut, healed",
    "erased": "erased",
    "erased-cut": "erased and cut",
    "erased-healed": "erased, cut, and healed",
}
"""What a mitigation tries, in this order."""
Choose = Callable[[list[dict[str, Any]], Result], Result]
"""Takes what `list_front` gives, and the name of the best. Returns the name of the one to keep."""
_STATES: tuple[State | None, ...] = ("kept", "undecided", None, "missed")


def list_front(report: Report, names: Sequence[Result]) -> list[dict[str, Any]]:
    """The results with what they cost and leave, as plain JSON values.

    `name`, `what`, `state`; `loss_increase` (nats per token) and `recited` (share), None if they
    were not measured; `strongest` {`attack`, `recovered`}, None if no attack counts (of those that
    tie, the one that recovers most from the base); `auc`: that of the membership score that is
    farthest from chance, None if none was tried; and `tasks` {`lost`, `unclear`, `n`}: on how many
    benchmarks a loss is shown, and on how many the difference is inconclusive.
    """
    loss, recited = report.find("heldout"), report.find("recited")
    attacks = [one for one in report.figures if one.key.startswith("recovered.") and one.main]
    tasks = [one for one in report.figures if one.key.startswith("task.") and one.main]
    front = []
    for at, name in enumerate(names):
        cost, left = (figure and figure.edits[at] for figure in (loss, recited))
        rates = [
            (edit.value, (one.base and one.base.value) or 0, one.details["name"])
            for one in attacks
            if (edit := one.edits[at]) is not None and edit.value is not None
        ]
        worst = max(rates, key=lambda one: one[:2], default=None)
        scores = [one.edits[at] for one in report.figures if one.key.startswith("membership.")]
        areas = [one.value for one in scores if one is not None and one.value is not None]
        ends = [one.edits[at] for one in tasks]
        outcomes = [one.details.get("outcome") for one in ends if one is not None]
        counts = {"lost": outcomes.count("loss"), "unclear": outcomes.count("inconclusive")}
        front.append(
            {
                "name": name,
                "what": RESULTS[name],
                "state": report.edits[at].state,
                "loss_increase": cost.change.value if cost and cost.change else None,
                "recited": left.value if left else None,
                "strongest": worst and {"attack": worst[2], "recovered": worst[0]},
                "auc": max(areas, key=lambda area: abs(area - 0.5), default=None),
                "tasks": {**counts, "n": len(tasks)},
            }
        )
    return front


def choose_best(report: Report, names: Sequence[Result]) -> tuple[int, str]:
    """The place of the best result, and a sentence that says why.

    A result that keeps every gate beats one that does not decide it, and that one beats one that
    misses it. Of those alike, the cheapest wins: the first one if costs were not measured.
    """
    loss, places = report.find("heldout"), range(len(report.edits))
    changes = [one and one.change for one in loss.edits] if loss else [None for _ in places]
    costs = [change.value if change else math.inf for change in changes]
    ranks = [_STATES.index(edit.state) for edit in report.edits]
    place = min(places, key=lambda at: (ranks[at], costs[at]))
    said = []
    for at, (name, cost, rank) in enumerate(zip(names, costs, ranks, strict=True)):
        parts = [RESULTS[name], "not measured" if cost == math.inf else f"{cost:+.3f} nats"]
        parts += [_describe_open(report, at)] if rank > ranks[place] else []
        said.append(": ".join([parts[0], ", ".join(parts[1:])]))
    return place, f"kept {RESULTS[names[place]]}. {'; '.join(said)}"


def choose_result(
    report: Report, names: Sequence[Result], keep: Result | None, choose: Choose | None
) -> tuple[int, str]:
    """The place of the result to keep, and why: the one to `keep`, else as `choose` says, else the
    best."""
    place, reason = choose_best(report, names)
    if keep is not None and keep not in names:
        return place, f"{keep} was not made. {reason[0].upper()}{reason[1:]}"
    chosen = keep or names[place]
    if choose is not None and keep is None and len(names) > 1:
        chosen = choose(list_front(report, names), chosen)
    if chosen == names[place]:
        return place, reason
    return names.index(chosen), f"kept {RESULTS[chosen]}, as you chose"


def _describe_open(report: Report, place: int) -> str:
    """Which gates keep a result from being the better one."""
    state = report.edits[place].state
    names = [limit.name for limit in report.list_limits(place) if limit.state == state]
    does = "misses" if state == "missed" else "does not decide"
    return f"{does} {shorten_list(names or ['the limits of the search'])}"
