"""What a search has measured, and what it still may."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from evals.search.front import Point
from evals.search.goals import Goal
from evals.search.units import Units, merged
from surgery.selection import Selection

Evaluate = Callable[[Sequence[Selection]], Sequence[Point]]
"""Selections -> their points, in order."""


class Trail:
    """Everything measured so far.

    **Arguments:** `evaluate`: () is the unedited model; `holds`: which selections may be proposed;
    `budget`: how many edits may be measured; `earlier`: points of an earlier search, which are not
    measured again but count.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        goal: Goal,
        holds: Callable[[Selection], bool],
        budget: int,
        earlier: Mapping[Selection, Point],
    ) -> None:
        self._evaluate, self.goal, self._holds, self.budget = evaluate, goal, holds, budget
        self._earlier = earlier
        self._known: dict[Selection, tuple[Units, Point]] = {}
        self._refused: set[Selection] = {()}
        self.base = earlier.get(()) or evaluate([()])[0]

    @property
    def measured(self) -> tuple[tuple[Units, Point], ...]:
        return tuple(self._known.values())

    def measure(self, sets: Collection[Units]) -> list[tuple[Units, Point]]:
        """Those of `sets` that may be proposed, with their points, as far as the budget reaches."""
        wanted = {merged(chosen): chosen for chosen in sets}
        new: dict[Selection, Units] = {}
        for selection, chosen in wanted.items():
            if selection in self._known or selection in self._refused or len(new) == self.budget:
                continue
            if self._holds(selection):
                new[selection] = chosen
            else:
                self._refused.add(selection)
        self.budget -= len(new)
        points = {
            selection: self._earlier[selection] for selection in new if selection in self._earlier
        }
        missing = [selection for selection in new if selection not in points]
        if missing:
            points |= zip(missing, self._evaluate(missing), strict=True)
        self._known |= {one: (chosen, points[one]) for one, chosen in new.items()}
        return [self._known[selection] for selection in wanted if selection in self._known]

    def met(self) -> list[tuple[Units, Point]]:
        """What meets the goal, best first."""
        some = [pair for pair in self._known.values() if self.goal.met(pair[1], self.base)]
        return sorted(some, key=lambda pair: self.goal.order(pair[1]))
