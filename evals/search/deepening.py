"""Cuts deeper than a goal asks, until the limits on other attacks hold as well.

What such an attack brings back rises with the share of suffix tokens that are right, which one pass
shows (docs/search.md has the figures). So the sets that were attacked tell how small that share
must be. New sets are composed with estimates that these attacks correct: margins that fall by less,
unit by unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from evals.memorization.recovery import is_recovery, make_recovery
from evals.search.algorithm import Found, compose
from evals.search.estimates import Indices
from evals.search.points import EditPoint

TRIES = 10  # sets to try
_STRICTER = (1.0, 0.5, 0.25)  # shares of a limit to compose sets for
_AIM = 0.7  # share of a limit to expect of a set, so that it also holds on other passages
_SLOPE = 10.0  # least fall of a rate's logarithm for each unit of the share of right tokens


def deepen(
    found: Found, keeps: Callable[[Indices], bool], limits: Mapping[str, float], most: int
) -> Indices | None:
    """Finds the cheapest set that meets the goal and that `keeps` the other limits; None: none did.

    Measures at most `most` edits in all, which join `found`. `keeps` adds the attacks to a point.
    """
    tried: list[Indices] = []
    held, missed, found.budget = None, None, most
    allowed = 1.0
    while len(tried) < TRIES:
        if missed is not None:
            point = found.measured[missed]
            name = max(limits, key=lambda one: point.known.get(one, 0.0) - limits[one])
            _compose_deeper(found, missed, name, limits[name])
            allowed = _allow([found.measured[one] for one in tried], name, limits[name])
        some = [
            chosen
            for chosen in found.met
            if chosen not in tried
            and not (point := found.measured[chosen]).excess(limits)
            and (held is None or point.heldout_kl < found.measured[held].heldout_kl)
        ]
        right = {chosen: found.measured[chosen].next_token_accuracy for chosen in some}
        best = [chosen for chosen in some if right[chosen] <= allowed]
        if not best and held is None:
            best = sorted(some, key=right.__getitem__)
        if not best:
            over = [chosen for chosen in found.met if found.measured[chosen].excess(limits)]
            if missed is not None or not over:
                break
            tried, missed = over[:1], over[0]  # an earlier run attacked it
            continue
        tried.append(best[0])
        if keeps(best[0]):
            held = best[0]
            if missed is None:
                break
        elif found.measured[best[0]].attacked or (missed is None and len(some) == 1):
            missed = best[0]  # else the fits of an export miss the goal, and another set may do
    if held is None:  # the deepest blocks, if they were found to hold
        some = [one for one in found.met if found.measured[one].attacked and one not in tried]
        kept = (one for one in some if not found.measured[one].excess(limits) and keeps(one))
        held = next(kept, None)
    return held


def _allow(tried: Sequence[EditPoint], name: str, limit: float) -> float:
    """The share of suffix tokens that may be right, by a line through the rates' logarithms."""
    points = [(p.next_token_accuracy, p.known[name]) for p in tried if name in p.known]
    if not points:
        return 1.0
    right, rates = np.array(points).T
    logs = np.log(np.maximum(rates, limit / 10) + 1e-3)
    slope = _SLOPE if np.ptp(right) == 0 else max(_SLOPE, float(np.polyfit(right, logs, 1)[0]))
    return float(right.mean() - (logs.mean() - np.log(_AIM * limit + 1e-3)) / slope)


def _compose_deeper(found: Found, missed: Indices, name: str, limit: float) -> None:
    """Measures new sets that should leave less to the attack `name`, if there are estimates.

    If none is new, changes the set that missed its limit: where few units lower nothing, no set
    can be composed from them.
    """
    if found.estimates is None:
        return
    tried = {chosen for chosen, one in found.measured.items() if name in one.tried}
    known = {
        chosen: (one.heldout_kl, one.known[name])
        for chosen, one in found.measured.items()
        if name in one.known and (chosen in tried or not tried)
    }
    guide = found.guide
    attacked = replace(guide, measure=make_recovery(name) if is_recovery(name) else guide.measure)
    if known:
        fitted = np.copy(guide.corrections)
        fitted[:, 1] = np.asarray(attacked.correct(known).corrections)[:, 1]
        attacked = replace(attacked, corrections=fitted)
    rate = max(limit, 0.5 / guide.passages)
    for begin in (Indices(), missed):
        if found.measure(
            compose(attacked, share * rate, pool, begin)
            for share in _STRICTER
            for pool in guide.pools
            if begin <= pool
        ):
            break
