"""Cuts deeper than a goal asks, until the limits on other attacks hold as well.

What such an attack brings back is estimated as margins that fall by less. How much less is fitted,
unit by unit, on the sets that were attacked, as measurements correct all estimates. So each attack
tells which units remove and which only hide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from evals.memorization.recovery import is_recovery, make_recovery
from evals.search.algorithm import Found
from evals.search.composing import compose
from evals.search.estimates import Indices

_TRIES = 10  # sets to try
_STRICTER = (1.0, 0.5, 0.25)  # shares of a limit to compose sets for


def deepen(
    found: Found, keeps: Callable[[Indices], bool], limits: Mapping[str, float], most: int
) -> Indices | None:
    """Finds the cheapest set that meets the goal and that `keeps` the other limits; None: none did.

    Measures at most `most` edits in all, which join `found`. `keeps` adds the attacks to a point.
    """
    tried: list[Indices] = []
    held, missed, found.budget = None, None, most
    left: dict[Indices, float] = {}
    allowed = 0.0
    while len(tried) < _TRIES:
        if missed is not None:
            left, allowed = _expect(found, missed, limits)
        some = [
            chosen
            for chosen in found.met
            if chosen not in tried
            and not (point := found.measured[chosen]).excess(limits)
            and (held is None or point.heldout_kl < found.measured[held].heldout_kl)
        ]
        best = [chosen for chosen in some if left.get(chosen, 0.0) <= allowed]
        if not best and held is None:
            best = sorted(some, key=left.__getitem__)
        if not best:
            break
        tried.append(best[0])
        if not keeps(best[0]):
            missed = best[0]
        else:
            held = best[0]
            if missed is None:
                break
    return held


def _expect(
    found: Found, missed: Indices, limits: Mapping[str, float]
) -> tuple[dict[Indices, float], float]:
    """What each measured set should leave to the attack whose limit a set missed by most, and what
    is allowed. Measures new sets for that limit first.

    Without estimates, it goes by the share of suffix tokens that are right: fewer than that set's.
    """
    point = found.measured[missed]
    if found.estimates is None:
        right = {chosen: one.next_token_accuracy for chosen, one in found.measured.items()}
        return right, point.next_token_accuracy
    name = max(limits, key=lambda one: point.known.get(one, 0.0) - limits[one])
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
    allowed = max(limits[name], 0.5 / guide.passages)
    found.measure(
        compose(attacked, share * allowed, pool) for share in _STRICTER for pool in guide.pools
    )
    return {one: float(attacked.predict(one).rate[0]) for one in found.measured}, allowed
