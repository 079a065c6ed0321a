"""Which blocks and heads: a search for the edit that meets a goal at the least cost.

Without estimates all sets of units are measured, and the answer is the best there is. With them:

1. It composes sets that should leave less and less recovered, and measures them.
2. It measures what should meet the goal on other passages too, and, where the goal lies between two
   sets, one between them.
3. It measures sets that differ by one unit from the best so far, a few times.
4. It measures whole blocks alone, and pairs of them: what a plain scan would find. Then step 3
   again, for as long as that helps.

More budget only adds to what less budget measures.

Every measurement corrects the estimates. Steps 3 and 4 leave out what could not be better than the
best even if the estimates were far off. What was measured decides what is accepted. Nothing here
knows about models: `evaluate` gives points for selections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, count

import numpy as np

from evals.search.composing import Worth, least, near, worth_at
from evals.search.estimates import Estimates
from evals.search.front import Point
from evals.search.goals import Goal
from evals.search.units import Units, clash, every_set, merged
from surgery.selection import Part, Selection

_STEPS = 5  # sets that are measured at first
_ROUNDS = 4  # that halve the gap around the goal; that try sets near the best
_TRIED = 6  # sets near the best that are measured at a time
_PATIENCE = 2  # times that they may be no better
_FAR_OFF = np.array([-0.4, 1.0])  # an error that is allowed for: logarithms of cost and of drift

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
    ours = _Search(evaluate, goal, holds, max_evaluations, earlier or {})
    if estimates is None:
        ours.measure(every_set(units))
        return Found(tuple(point for _, point in ours.met()), ours.measured, None)
    guided = _Guided(ours, estimates)
    guided.compose()
    guided.exchange(_ROUNDS)
    guided.scan()
    guided.exchange()
    return Found(tuple(point for _, point in guided.ranked()), ours.measured, guided.estimates)


@dataclass
class _Search:
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

    def measure(self, sets: Iterable[Units], most: int | None = None) -> bool:
        """Measures the first `most` of `sets` that may be proposed, as far as the budget reaches.

        Returns whether there were any.
        """
        most = self.budget if most is None else min(most, self.budget)
        new: dict[Selection, Units] = {}
        for selection, chosen in {merged(chosen): chosen for chosen in sets}.items():
            if len(new) == most:
                break
            if selection and selection not in self.known and self.holds(selection):
                new[selection] = chosen
        self.budget -= len(new)
        missing = [selection for selection in new if selection not in self.earlier]
        points = {**self.earlier, **dict(zip(missing, self.evaluate(missing), strict=True))}
        self.known |= {selection: (new[selection], points[selection]) for selection in new}
        return bool(new)

    def met(self) -> list[tuple[Units, Point]]:
        """What meets the goal, best first."""
        some = [pair for pair in self.measured if self.goal.met(pair[1], self.base)]
        return sorted(some, key=lambda pair: self.goal.order(pair[1]))


@dataclass
class _Guided:
    """A search that estimates guide."""

    search: _Search
    estimates: Estimates
    best: tuple[Units, Point] | None = None
    tries: int = 0

    def __post_init__(self) -> None:
        passages, units = self.estimates.passages, self.estimates.units
        aimed, self.highest = self.search.goal.rates(passages)
        self.aim = max(aimed, 0.1 / passages)
        self.size = max(len(unit.heads) for unit in units)
        self.blocks = [frozenset([unit]) for unit in units if len(unit.heads) == self.size]

    def compose(self) -> None:
        """Sets that should leave less and less; then those around the goal, as estimates get
        better."""
        high, sets = self.search.base.recovered / 3, list[Units]()
        for rate in np.geomspace(max(high, self.aim), self.aim, _STEPS):
            sets += least(self.estimates, float(rate), sets[-1] if sets else frozenset())
        self._measure(sets)
        for _ in range(_ROUNDS):
            more = self._measure(self._promising(least(self.estimates, self.aim)))
            if not (self._measure(least(self.estimates, self._between())) or more):
                break

    def scan(self) -> None:
        """Whole blocks alone, then pairs of them."""
        pairs = [
            one | other
            for one, other in combinations(self.blocks, 2)
            if not clash(*one, *other) and any(one | other <= pool for pool in self.estimates.pools)
        ]
        for sets in (self.blocks, pairs):
            self._measure(self._promising(sets))

    def exchange(self, rounds: int | None = None) -> None:
        """Sets that differ by a unit from the best, and from the cheapest."""
        for _ in count() if rounds is None else range(rounds):
            best = next(iter(self.ranked()), None)
            self.tries = self.tries + 1 if best == self.best else 0
            self.best = best
            if best is None or self.tries >= _PATIENCE:
                break
            sets = least(self.estimates, self.aim)
            for chosen in dict.fromkeys((best[0], self.search.met()[0][0])):
                sets += near(self.estimates, chosen, self._worth())
            if not self._measure(self._promising(sets), most=_TRIED):
                break

    def ranked(self) -> list[tuple[Units, Point]]:
        """What meets the goal, best first; what may not keep a limit elsewhere comes last."""
        return sorted(self.search.met(), key=lambda pair: self._doubtful(pair[0]))

    def _measure(self, sets: Iterable[Units], most: int | None = None) -> bool:
        """As `_Search.measure`; corrects the estimates."""
        more = self.search.measure(sets, most)
        if more:
            self.estimates = self.estimates.corrected(self.search.measured)
        return more

    def _between(self) -> float:
        """The rate, on a logarithmic scale, between sets on this and on that side of the goal."""
        goal, base = self.search.goal, self.search.base
        rates = [
            (float(self.estimates.expected(chosen).recovered[0]), goal.beyond(point, base))
            for chosen, point in self.search.measured
        ]
        short = [rate for rate, beyond in rates if not beyond]
        high = min(short, default=float(self.estimates.expected(()).recovered[0]))
        low = max((rate for rate, beyond in rates if beyond and rate < high), default=high / 16)
        return float((high * low) ** 0.5)

    def _promising(self, sets: Iterable[Units]) -> list[Units]:
        """Those that might be better than the best if the estimates were far off, best first."""
        most = min(
            (
                point.heldout_kl
                for chosen, point in self.search.measured
                if self.search.goal.beyond(point, self.search.base) and not self._doubtful(chosen)
            ),
            default=np.inf,
        )
        best = replace(self.estimates, corrections=self.estimates.corrections + _FAR_OFF)
        known = {chosen for chosen, _ in self.search.measured}
        worth, found = self._worth(), list[tuple[float, list[Part]]]()
        for chosen in dict.fromkeys(sets):
            (kl,), (rate,) = best.expected(chosen)
            if kl < most and rate <= self.highest and chosen not in known:
                found.append((-float(worth(self.estimates.expected(chosen))[0]), sorted(chosen)))
        return [frozenset(chosen) for _, chosen in sorted(found)]

    def _worth(self) -> Worth:
        """At the price that the best so far pays, for rates down to the aim."""
        by_rate = sorted(self.search.measured, key=lambda pair: pair[1].recovered)
        best = next((chosen for chosen, _ in self.ranked() or by_rate), Units())
        (kl,), (rate,) = self.estimates.expected(best)
        (base,) = self.estimates.expected(()).recovered
        return worth_at(float(kl / max(np.log(base / max(rate, 1e-6)), 1e-3)), self.aim)

    def _doubtful(self, chosen: Units) -> bool:
        """Whether a set may not keep a limit elsewhere.

        A set that was composed on the passages at hand may fit no others. One or two whole blocks
        are too few to choose from for that.
        """
        plain = len(chosen) <= 2 and all(len(unit.heads) == self.size for unit in chosen)
        return not plain and float(self.estimates.expected(chosen).recovered[0]) > self.highest
