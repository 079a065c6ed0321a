"""The results of a mitigation side by side, and which of them to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from evals.table.words import shorten_list
from surgery.card.measurements import name_limit
from surgery.record.measured import State
from surgery.record.report import Report

Result = Literal["cut", "healed", "erased", "erased-cut", "erased-healed"]
RESULTS: dict[Result, str] = {
    "cut": "the cut",
    "healed": "the cut, healed",
    "erased": "erased",
    "erased-cut": "erased and cut",
    "erased-healed": "erased, cut, and healed",
}
"""What a mitigation tries, in this order."""
Choose = Callable[[Report, Sequence[Result], Result], Result]
"""Takes the report, the names of its edits, and that of the best. Returns the name to keep."""
_STATES: tuple[State | None, ...] = ("kept", "undecided", None, "missed")


def choose_best(report: Report, names: Sequence[Result]) -> tuple[int, str]:
    """The place of the best result, and a sentence that says why.

    A result that keeps every gate beats one that does not decide it, and that one beats one that
    misses it. Of those alike, the cheapest wins: the first one if costs were not measured.
    """
    losses = [report.find("heldout", edit.of) for edit in report.edits]
    costs = [one.change.difference if one and one.change else math.inf for one in losses]
    ranks = [_STATES.index(edit.state) for edit in report.edits]
    place = min(range(len(ranks)), key=lambda at: (ranks[at], costs[at]))
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
        chosen = choose(report, names, chosen)
    if chosen == names[place]:
        return place, reason
    return names.index(chosen), f"kept {RESULTS[chosen]}, as you chose"


def _describe_open(report: Report, place: int) -> str:
    """Which gates keep a result from being the better one."""
    edit = report.edits[place]
    state = edit.state
    names = [name_limit(one) for one in report.list_limits(edit.of) if one.state == state]
    does = "misses" if state == "missed" else "does not decide"
    return f"{does} {shorten_list(names or ['the limits of the search'])}"
