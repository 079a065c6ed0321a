"""The goal of a search, in terms of measured points."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from scipy.stats import beta

from evals.choose.grid import EditPoint, size_of
from surgery.selection import Selection

AIMED, SURE = 0.99, 0.95
"""Probability that a composed set, and a chosen one, keeps the limit on other passages."""
Order = tuple[float, float, tuple[int, Selection]]


@dataclass(frozen=True)
class Goal:
    """At most `limit` (0 to 1) of the passages recovered, at the least cost."""

    limit: float

    def met(self, point: EditPoint) -> bool:
        """Whether an edit meets the goal. Edits that leave less, and so cost more, are of no use
        then."""
        return point.recovered <= self.limit

    def order(self, point: EditPoint) -> Order:
        """Of two edits that meet the goal, the smaller is better."""
        return point.cost, point.recovered, size_of(point.selection)

    def rates(self, passages: int) -> tuple[float, float]:
        """The share of so many passages to compose sets for, and the highest that is acceptable."""
        return self.kept_at(passages, AIMED), self.kept_at(passages, SURE)

    def kept_at(self, passages: int, confidence: float) -> float:
        """The rate at which so many other passages keep the limit with this probability.

        It is the lower end of the Clopper-Pearson interval around the most that the limit allows.
        If the limit allows none of so few passages, it may be that of just enough to allow one.
        """
        enough = ceil(1 / max(self.limit, 1e-6))
        rates = [
            beta.ppf(1 - confidence, most + 1, number - most)
            for number in (passages, max(passages, enough))
            for most in [min(int(self.limit * number + 1e-9), number - 1)]
        ]
        return float(max(rates))
