"""Cuts deeper than a goal asks, until the limits on other attacks hold as well.

What a slow attack brings back goes with the share of suffix tokens that stay right. So if a set
misses another limit, the next ones leave fewer tokens right; if one holds, the next ones lie
between it and the last that missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from evals.memorization.recovery import Recovery
from evals.search.algorithm import Found, improve
from evals.search.estimates import Indices
from evals.search.goals import MaxRight
from evals.search.points import EditPoint
from surgery.selection import Selection

_TRIES = 10  # sets to try
_FEWER = 0.85  # of the tokens that a set leaves right, the share that the next one may leave
_EACH = 12  # edits to measure for a share
_RIGHT = Recovery(
    name="right",
    definition="the share of suffix tokens that are right",
    source="ours",
    recovered=lambda seen: seen.right.mean(axis=-1),
    chance=lambda p: p.mean(axis=-1),
)


def deepen(found: Found, keeps: Callable[[Indices], bool], most: int) -> Indices | None:
    """Finds the cheapest set that meets the goal and that `keeps` the other limits; None: none did.

    Measures at most `most` edits in all, which join `found`.
    """
    missed, held, found.budget = float("inf"), None, most
    for _ in range(_TRIES):
        level = missed * _FEWER
        if held is not None:
            level = (missed * found.measured[held].next_token_accuracy) ** 0.5
        if missed < 1 and found.estimates is not None:
            _compose_deeper(found, level)
        some = [
            chosen
            for chosen, point in ((one, found.measured[one]) for one in found.met)
            if point.next_token_accuracy < missed
            and (held is None or point.heldout_kl < found.measured[held].heldout_kl)
        ]
        fewer = [one for one in some if found.measured[one].next_token_accuracy <= level]
        if not some:
            break
        chosen = (fewer or some)[0]
        if not keeps(chosen):
            missed = found.measured[chosen].next_token_accuracy
        elif missed < 1:
            held = chosen
        else:
            return chosen
    return held


def _compose_deeper(found: Found, level: float) -> None:
    """Measures sets that should leave at most the share `level` of the suffix tokens right."""

    def evaluate(selections: Sequence[Selection]) -> list[EditPoint]:
        return [_by_tokens(point) for point in found.evaluate(selections)]

    deeper = replace(
        found,
        evaluate=evaluate,
        goal=MaxRight(level),
        base=_by_tokens(found.base),
        budget=min(found.budget, len(found.measured) + _EACH),
        estimates=replace(found.guide, measure=_RIGHT),
        measured={chosen: _by_tokens(point) for chosen, point in found.measured.items()},
    )
    improve(deeper, level)
    found.measure(deeper.measured)


def _by_tokens(point: EditPoint) -> EditPoint:
    return replace(point, recovered=point.next_token_accuracy)
