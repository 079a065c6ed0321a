"""The goals of a search, in terms of measured points. `base` is the unedited model's point.

A goal has:

- `cost`: the axis of the Pareto front beside `recovered`. `price`: the same in terms of KL, which
  estimates guess. `order`: of two edits that meet the goal, the smaller is better.
- `met`: whether an edit meets the goal. `beyond`: whether edits that leave less recovered, and so
  cost more, are of no use.
- `rates`: the share of so many passages to compose sets for, and the highest that is acceptable.
"""

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
class MaxExtraction:
    """At most `limit` (0 to 1) of the passages recovered, at the least cost.

    That is the mean held-out KL, or the `worst` measure of the KL.
    """

    limit: float
    worst: bool = False

    def cost(self, point: EditPoint) -> float:
        return point.worst[1] if self.worst else point.heldout_kl

    price = cost

    def met(self, point: EditPoint, base: EditPoint) -> bool:
        return point.recovered <= self.limit

    def order(self, point: EditPoint) -> Order:
        return self.cost(point), point.recovered, size_of(point.selection)

    def beyond(self, point: EditPoint, base: EditPoint) -> bool:
        return self.met(point, base)

    def rates(self, passages: int) -> tuple[float, float]:
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


@dataclass(frozen=True)
class MaxLossIncrease:
    """The fewest passages recovered, with held-out loss at most `limit` nats per token higher."""

    limit: float

    def cost(self, point: EditPoint) -> float:
        return point.heldout_loss

    def price(self, point: EditPoint) -> float:
        return point.heldout_kl

    def met(self, point: EditPoint, base: EditPoint) -> bool:
        cheap = point.heldout_loss - base.heldout_loss <= self.limit
        return cheap and point.recovered < base.recovered

    def order(self, point: EditPoint) -> Order:
        return point.recovered, point.heldout_loss, size_of(point.selection)

    def beyond(self, point: EditPoint, base: EditPoint) -> bool:
        return point.heldout_loss - base.heldout_loss > self.limit

    def rates(self, passages: int) -> tuple[float, float]:
        return 0.0, 1.0


Goal = MaxExtraction | MaxLossIncrease
