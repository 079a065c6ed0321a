"""What a search has measured, and what it should try next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from evals.search.front import Point
from evals.search.goals import Goal
from evals.search.units import Units, clash, merged
from surgery.selection import Part, Selection

_SMALLEST = 1e-6  # of what is divided by

Evaluate = Callable[[Sequence[Selection]], Sequence[Point]]
"""Selections -> their points, in order."""


class Trail:
    """Everything measured so far, and what may still be."""

    def __init__(
        self,
        evaluate: Evaluate,
        goal: Goal,
        holds: Callable[[Selection], bool],
        budget: int,
    ) -> None:
        self._evaluate, self.goal, self._holds, self.budget = evaluate, goal, holds, budget
        self._known: dict[Units, Point | None] = {frozenset(): None}  # None: not to be proposed
        (self.base,) = evaluate([()])

    @property
    def points(self) -> tuple[Point, ...]:
        return tuple(point for point in self._known.values() if point is not None)

    def measure(self, sets: Collection[Units]) -> list[tuple[Units, Point]]:
        """Those of `sets` that may be proposed, with their points, as far as the budget reaches."""
        wanted = list(dict.fromkeys(sets))
        new: list[Units] = []
        for chosen in wanted:
            if chosen in self._known or len(new) == self.budget:
                continue
            if self._holds(merged(chosen)):
                new.append(chosen)
            else:
                self._known[chosen] = None
        self.budget -= len(new)
        if new:
            points = self._evaluate([merged(chosen) for chosen in new])
            self._known |= dict(zip(new, points, strict=True))
        found = ((chosen, self._known.get(chosen)) for chosen in wanted)
        return [(chosen, point) for chosen, point in found if point is not None]

    def grows(self, point: Point) -> bool:
        """Whether more units may make it better than the best."""
        best = self.best()
        return self.goal.grows(point, self.base, None if best is None else best[1])

    def best(self) -> tuple[Units, Point] | None:
        met = [
            (self.goal.order(point), chosen, point)
            for chosen, point in self._known.items()
            if point is not None and self.goal.met(point, self.base)
        ]
        return min(met, key=lambda found: found[0])[1:] if met else None


@dataclass(frozen=True)
class Promise:
    """What to try next, judged by what each unit gave and cost alone."""

    alone: dict[Part, Point]
    base: Point

    def worth(self, point: Point) -> float:
        """The fall in recall for each nat of held-out KL."""
        return (self.base.recall - point.recall) / max(point.heldout_kl, _SMALLEST)

    @cached_property
    def ranked(self) -> list[Part]:
        return sorted(self.alone, key=lambda unit: (-self.worth(self.alone[unit]), unit))

    def larger(self, chosen: Units, number: int) -> list[Units]:
        """One unit more, the most promising `number` of them."""
        free = [unit for unit in self.ranked if not any(clash(unit, part) for part in chosen)]
        return [chosen | {unit} for unit in free[:number]]

    def exchanged(self, chosen: Units, point: Point) -> list[Units]:
        """One unit for another; first what should cost least, at the price that recall has now."""
        price = 1 / max(self.worth(point), _SMALLEST)
        value = {unit: p.heldout_kl + price * p.recall for unit, p in self.alone.items()}
        found = sorted(
            (value[new] - value[old], new, old)
            for old in chosen
            for new in self.alone.keys() - chosen
            if not any(clash(new, part) for part in chosen - {old})
        )
        return [chosen - {old} | {new} for _, new, old in found]
