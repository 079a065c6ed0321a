"""Which blocks and heads: a search for the edit that meets a goal at the least cost.

Without estimates all sets of units are measured, and the answer is the best there is. With them:

1. From estimates: the cheapest sets that should leave less and less recovered. These are measured.
2. The estimates are corrected by what was measured. Then what they say meets the goal on other
   passages too is measured, and, where the goal lies between two sets, one between them; again and
   again.
3. Sets that differ from the best by one unit and are expected to be better are measured.

What is accepted is decided by what was measured. Nothing here knows about models: `evaluate` gives
points for selections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evals.search.estimates import Estimates
from evals.search.front import Point
from evals.search.goals import SURE, Goal, MaxExtraction
from evals.search.units import Units, every_set, merged
from surgery.selection import Part, Selection

STEPS = 5
"""Sets that are measured at first."""
ROUNDS = 4
"""In which the estimates are corrected and the gap around the goal is halved."""
TRIED = 6
"""Sets near the best that are measured at a time."""
_NEAR = 1.1  # rates that differ by less are not told apart
_BETTER = 3  # times that sets near the best are tried

Evaluate = Callable[[Sequence[Selection]], Sequence[Point]]
"""Selections → their points, in order; () is the unedited model."""


@dataclass(frozen=True)
class Found:
    """What a search measured.

    - `met`: what meets the goal, best first; before the rest, what is also expected to on other
      passages. `measured`: every edit that was, with the units that it is made of.
    - `estimates`: as corrected in the end; None where all sets were measured.
    """

    met: tuple[Point, ...]
    measured: tuple[tuple[Units, Point], ...]
    estimates: Estimates | None

    @property
    def exhaustive(self) -> bool:
        return self.estimates is None

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(point for _, point in self.measured)


def search(
    evaluate: Evaluate,
    units: Sequence[Part],
    goal: Goal,
    estimates: Estimates | None,
    *,
    holds: Callable[[Selection], bool] = lambda selection: True,
    max_evaluations: int,
    earlier: Mapping[Selection, Point] | None = None,
) -> Found:
    """Finds a selection of `units` that meets `goal`.

    **Arguments:**

    - `units`: what may be edited, all different.
    - `estimates`: of `units`; None: all sets of them are measured.
    - `holds`: which selections may be proposed.
    - `max_evaluations`: how many edits may be measured, the unedited model not counted.
    - `earlier`: points that an earlier search with the same arguments has measured.

    The same points give the same answer.
    """
    trail = _Trail(evaluate, goal, holds, max_evaluations, earlier or {})
    if estimates is None:
        trail.measure(every_set(units))
    else:
        _follow(trail, estimates)
        estimates = _close_in(trail, estimates)
        estimates = _refine(trail, estimates)
    met = tuple(point for _, point in _ranked(trail, estimates))
    return Found(met, trail.measured, estimates)


@dataclass
class _Trail:
    """What a search has measured, and what it still may: as the arguments of `search`.

    `budget`: of edits; those of an earlier search are not measured again but count.
    """

    evaluate: Evaluate
    goal: Goal
    holds: Callable[[Selection], bool]
    budget: int
    earlier: Mapping[Selection, Point]
    known: dict[Selection, tuple[Units, Point]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.base = self.earlier.get(()) or self.evaluate([()])[0]

    @property
    def measured(self) -> tuple[tuple[Units, Point], ...]:
        return tuple(self.known.values())

    def measure(self, sets: Iterable[Units]) -> None:
        """Those of `sets` that may be proposed, as far as the budget reaches."""
        new: dict[Selection, Units] = {}
        for selection, chosen in {merged(chosen): chosen for chosen in sets}.items():
            if len(new) == self.budget:
                break
            if selection and selection not in self.known and self.holds(selection):
                new[selection] = chosen
        self.budget -= len(new)
        missing = [selection for selection in new if selection not in self.earlier]
        points = {**self.earlier, **dict(zip(missing, self.evaluate(missing), strict=True))}
        self.known |= {selection: (new[selection], points[selection]) for selection in new}

    def met(self) -> list[tuple[Units, Point]]:
        """What meets the goal, best first."""
        some = [pair for pair in self.measured if self.goal.met(pair[1], self.base)]
        return sorted(some, key=lambda pair: self.goal.order(pair[1]))


def _follow(trail: _Trail, estimates: Estimates) -> None:
    """Sets that should leave less and less."""
    high, low = _rates(trail, estimates)
    sets: list[Units] = []
    for rate in np.geomspace(max(high, low), low, STEPS):
        sets += estimates.least(float(rate), sets[-1] if sets else frozenset())
    trail.measure(sets)


def _rates(trail: _Trail, estimates: Estimates) -> tuple[float, float]:
    high, low = trail.goal.rates(trail.base, estimates.passages)
    return high, max(low, 0.1 / estimates.passages)


def _close_in(trail: _Trail, estimates: Estimates) -> Estimates:
    """Halves the gap, on a logarithmic scale, between sets on this and on that side of the goal.

    Beside it the cheapest set that should meet a limit elsewhere: as the estimates get better, it
    gets cheaper, or safer.
    """
    limited = isinstance(trail.goal, MaxExtraction)
    for _ in range(ROUNDS):
        estimates = estimates.corrected(trail.measured)
        before = len(trail.measured)
        if limited:
            trail.measure(estimates.cheapest(_rates(trail, estimates)[1]))
            estimates = estimates.corrected(trail.measured)
        rates = [
            (estimates.expected(chosen).recovered, trail.goal.beyond(point, trail.base))
            for chosen, point in trail.measured
        ]
        short = [rate for rate, beyond in rates if not beyond]
        high = min(short, default=estimates.expected(()).recovered)
        low = max((rate for rate, beyond in rates if beyond and rate < high), default=high / 16)
        if high > _NEAR * low:
            trail.measure(estimates.least((high * low) ** 0.5))
        if len(trail.measured) == before or not trail.budget:
            break
    return estimates.corrected(trail.measured)


def _refine(trail: _Trail, estimates: Estimates) -> Estimates:
    """Sets that differ from the best by one unit, for as long as that makes it better."""
    for _ in range(_BETTER):
        ranked = _ranked(trail, estimates)
        if not ranked or not trail.budget:
            break
        best = ranked[0]
        known = {chosen for chosen, _ in trail.measured}
        near = [chosen for chosen in estimates.near(best[0]) if chosen not in known]
        trail.measure(near[:TRIED])
        estimates = estimates.corrected(trail.measured)
        if _ranked(trail, estimates)[0] == best:
            break
    return estimates


def _ranked(trail: _Trail, estimates: Estimates | None) -> list[tuple[Units, Point]]:
    """What meets the goal, best first; what may not keep a limit elsewhere comes last."""
    met, goal = trail.met(), trail.goal
    if estimates is None or not isinstance(goal, MaxExtraction):
        return met
    highest = goal.kept_at(estimates.passages, SURE)

    def doubtful(pair: tuple[Units, Point]) -> bool:
        return estimates.expected(pair[0]).recovered > highest

    return sorted(met, key=doubtful)
