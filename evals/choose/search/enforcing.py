"""Cuts deeper than a goal asks, until the limits on other attacks hold as well.

What such an attack brings back rises with the share of suffix tokens that are right, which one pass
shows. So the sets that were attacked tell how small that share must be. New sets are composed with
estimates that these attacks correct: margins that fall by less, unit by unit. Once a set holds, the
rest of the budget is for cheaper ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from evals.choose.estimates import Estimates, Indices
from evals.choose.grid import EditPoint
from evals.choose.search.algorithm import PATIENCE, ROUND, Found, compose, explore, list_changed
from evals.measure.memorization.recovery import is_recovery, make_recovery

NO_LIMITS: Mapping[str, float] = MappingProxyType({})
TRIES = 10  # sets to try
_STRICTER = (1.0, 0.5, 0.25)  # shares of a limit to compose sets for
_AIM = 0.7  # share of a limit to expect of a set, so that it also holds on other passages
_SLOPE = 10.0  # least fall of a rate's logarithm for each unit of the share of right tokens


def enforce_limits(
    found: Found,
    keeps: Callable[[Indices], bool],
    limits: Mapping[str, float],
    most: int,
    drops: Mapping[str, float] = NO_LIMITS,
) -> Indices | None:
    """Finds the best set that meets the goal and that `keeps` the other limits; None: none did.

    `limits`: on attacks; `drops`: on benchmarks, which no deeper cut keeps. Measures at most `most`
    edits in all, which join `found`. `keeps` adds the attacks and the benchmarks to a point.
    """
    tried: list[Indices] = []
    every = {**limits, **drops}
    held, missed, found.budget = None, None, most
    allowed, stale = 1.0, 0
    while len(tried) < TRIES:
        if missed is not None:
            name = _find_missed(found.measured[missed], limits)
            _compose_deeper(found, missed, name, limits[name])
            allowed = _allow([found.measured[one] for one in tried], name, limits[name])
        some = [one for one in _list_open(found, every, held) if one not in tried]
        if missed is None and held is None and (over := _find_over(found, limits, some, tried)):
            tried.append(over)  # one pass tells, or an earlier run attacked it
            missed = over
            continue
        right = {chosen: found.measured[chosen].next_token_accuracy for chosen in some}
        best = [chosen for chosen in some if right[chosen] <= allowed]
        if not best and held is None:
            best = sorted(some, key=right.__getitem__)
        if not best:
            measured, stale = len(found.measured), stale + 1
            lost = bool(drops and tried) and missed is None  # each loses too much on a benchmark
            if stale <= PATIENCE and (held is not None or lost):
                _seek_cheaper(found, held, missed, limits)
            if len(found.measured) == measured:
                break
            continue
        tried.append(best[0])
        if keeps(best[0]):
            held, stale = best[0], 0
        elif limits and not (point := found.measured[best[0]]).excess(drops):
            only = missed is None and len(some) == 1
            # Without attacks, the fits of an export miss the goal, and another set may do.
            missed = best[0] if point.attacked or only else missed
    attacked = (
        one
        for one in _list_open(found, every, held)
        if one not in tried and found.measured[one].late
    )
    return next((one for one in attacked if keeps(one)), held)  # such as the deepest blocks


def _find_over(
    found: Found, limits: Mapping[str, float], some: Sequence[Indices], tried: Sequence[Indices]
) -> Indices | None:
    """The best set that exceeds a limit, if it is better than those that may be tried."""
    over = [one for one in found.met if found.measured[one].excess(limits) and one not in tried]
    better = over and (not some or found.rank(over[0]) < found.rank(some[0]))
    return over[0] if better else None


def _find_missed(point: EditPoint, limits: Mapping[str, float]) -> str:
    """The limit that a point exceeds most."""
    return max(limits, key=lambda one: point.known.get(one, 0.0) - limits[one])


def _list_open(found: Found, limits: Mapping[str, float], held: Indices | None) -> list[Indices]:
    """The sets that meet the goal, exceed no limit that was measured, and beat the one that held.

    The best comes first.
    """
    return [
        one
        for one in found.met
        if not found.measured[one].excess(limits)
        and (held is None or found.rank(one) < found.rank(held))
    ]


def _seek_cheaper(
    found: Found, held: Indices | None, missed: Indices | None, limits: Mapping[str, float]
) -> None:
    """Measures sets that may cost less than the one that held, within the budget."""
    if missed is None or held is None:
        explore(found)
    elif found.estimates is not None:
        name = _find_missed(found.measured[missed], limits)
        guide, rate = _correct(found, name), max(limits[name], 0.5 / found.guide.passages)
        some = list_changed(guide, held, rate, found.measured[held].cost)
        found.measure(some, most=ROUND)


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
    attacked, rate = _correct(found, name), max(limit, 0.5 / found.guide.passages)
    for begin in (Indices(), missed):
        if found.measure(compose(attacked, share * rate, begin) for share in _STRICTER):
            break


def _correct(found: Found, name: str) -> Estimates:
    """Estimates of what the attack `name` recovers, by the sets that it was tried on."""
    tried = {chosen for chosen, one in found.measured.items() if name in one.late}
    rates = {
        chosen: one.known[name]
        for chosen, one in found.measured.items()
        if name in one.known and (chosen in tried or not tried)
    }
    measure = make_recovery(name) if is_recovery(name) else found.guide.measure
    return replace(found.guide, measure=measure).correct({}, rates)
