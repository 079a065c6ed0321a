"""Which blocks or heads: a search for the edit that meets a goal at the least cost.

1. Every unit (a block or a head with a variant) is measured alone.
2. Where all sets of units fit into the budget, all are measured, and the answer is the best there
   is. Otherwise one set takes the units in order of their worth until it meets the goal; then a
   beam of sets grows, each step with what it did to the sets before it.
3. The best set is refined: units are taken out again where that makes it better (backward
   elimination), and exchanged for others.
4. While there is budget left, 2 and 3 are repeated with a beam twice as wide.

Steps are ranked by a smooth measure, the fall in `recall` per nat of held-out KL: exact match alone
says nothing until passages break. What is accepted is decided by the goal itself.

Nothing here knows about models: `evaluate` gives points for selections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from evals.search.front import Point, pareto_front
from evals.search.goals import Goal
from evals.search.trail import Evaluate, Promise, Trail
from evals.search.units import Units, clash, every_set, number_of_sets
from surgery.selection import Part, Selection

WIDTH = 2
"""Sets that grow side by side, at first."""
TRIED = 6
"""Units that are tried on each of them, the most promising first, and exchanges at a time."""


@dataclass(frozen=True)
class Found:
    """What a search measured.

    - `best`: None where nothing that was measured meets the goal.
    - `points`: every edit that was measured. `exhaustive`: those are all there are.
    """

    best: Point | None
    base: Point
    points: tuple[Point, ...]
    exhaustive: bool
    goal: Goal

    @cached_property
    def front(self) -> list[Point]:
        return pareto_front(self.points, self.goal.cost)


def search(
    evaluate: Evaluate,
    units: Sequence[Part],
    goal: Goal,
    *,
    holds: Callable[[Selection], bool] = lambda selection: True,
    max_evaluations: int,
) -> Found:
    """Finds a selection of `units` that meets `goal`.

    **Arguments:**

    - `evaluate`: selections → their points, in order; () is the unedited model.
    - `units`: what may be edited, all different.
    - `holds`: which selections may be proposed.
    - `max_evaluations`: how many edits may be measured, the unedited model not counted.

    The same points give the same answer, which is the best by `goal` of all that were measured.
    """
    trail = Trail(evaluate, goal, holds, max_evaluations)
    alone = trail.measure([frozenset([unit]) for unit in units])
    exhaustive = number_of_sets(units) <= max_evaluations
    if exhaustive:
        trail.measure(list(every_set(units)))
    else:
        promise = Promise({unit: point for (unit,), point in alone}, trail.base)
        _dive(trail, promise)
        _eliminate(trail)
        width, tried = WIDTH, TRIED
        while trail.budget and width <= max_evaluations:
            _grow(trail, alone, promise, width, tried)
            _refine(trail, promise, tried)
            width, tried = 2 * width, 2 * tried
    best = trail.best()
    return Found(None if best is None else best[1], trail.base, trail.points, exhaustive, goal)


def _dive(trail: Trail, promise: Promise) -> None:
    """One set takes the units in order of worth: soon it meets the goal, to be improved on."""
    chosen: Units = frozenset()
    for unit in promise.ranked:
        if any(clash(unit, part) for part in chosen):
            continue
        for more, point in trail.measure([chosen | {unit}]):
            if not trail.grows(point):
                return
            chosen = more


def _grow(
    trail: Trail, sets: list[tuple[Units, Point]], promise: Promise, width: int, tried: int
) -> None:
    """A beam: the most promising sets of each size, each with one unit more, and so on."""
    while sets and trail.budget:
        able = [(promise.worth(point), chosen) for chosen, point in sets if trail.grows(point)]
        able.sort(key=lambda pair: -pair[0])
        sets = trail.measure(
            [more for _, chosen in able[:width] for more in promise.larger(chosen, tried)]
        )


def _eliminate(trail: Trail) -> None:
    """Takes units out of the best set, one by one, for as long as that makes it better."""
    best, before = trail.best(), None
    while best is not None and best != before and trail.budget:
        trail.measure([best[0] - {unit} for unit in sorted(best[0])])
        best, before = trail.best(), best


def _refine(trail: Trail, promise: Promise, tried: int) -> None:
    """Takes units out of the best set, and exchanges them, for as long as that makes it better."""
    _eliminate(trail)
    best = trail.best()
    tries = [] if best is None else promise.exchanged(*best)
    while tries and trail.budget:
        trail.measure(tries[:tried])
        tries = tries[tried:]
        if trail.best() != best:
            _eliminate(trail)
            best = trail.best()
            tries = [] if best is None else promise.exchanged(*best)
