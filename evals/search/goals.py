"""What a search is asked for, in terms of measured points."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Protocol

from scipy.stats import beta

from evals.search.front import Point, size_of
from surgery.selection import Selection

AIMED, SURE = 0.99, 0.95
"""With which probability what is composed, and what is chosen, should keep a limit elsewhere."""
Order = tuple[float, float, tuple[int, Selection]]


class Goal(Protocol):
    """`base` is always the unedited model's point."""

    @property
    def asked(self) -> dict[str, float]:
        """The option of `attn-surgery search` and its value."""

    def cost(self, point: Point) -> float:
        """What an edit costs: the axis of the Pareto front beside `recovered`."""

    def met(self, point: Point, base: Point) -> bool:
        """Whether an edit will do."""

    def order(self, point: Point) -> Order:
        """Of two edits that will do, the smaller is better."""

    def beyond(self, point: Point, base: Point) -> bool:
        """Whether edits that recover less, and so cost more, are of no use."""

    def rates(self, passages: int) -> tuple[float, float]:
        """The share of `passages` that sets are composed for, and the highest that will do."""


@dataclass(frozen=True)
class MaxExtraction:
    """At most `limit` (0 to 1) of the passages recovered, at the least held-out KL."""

    limit: float

    @property
    def asked(self) -> dict[str, float]:
        return {"max_extraction": self.limit}

    def cost(self, point: Point) -> float:
        return point.heldout_kl

    def met(self, point: Point, base: Point) -> bool:
        return point.recovered <= self.limit

    def order(self, point: Point) -> Order:
        return point.heldout_kl, point.recovered, size_of(point.selection)

    def beyond(self, point: Point, base: Point) -> bool:
        return self.met(point, base)

    def rates(self, passages: int) -> tuple[float, float]:
        return self.kept_at(passages, AIMED), self.kept_at(passages, SURE)

    def kept_at(self, passages: int, confidence: float) -> float:
        """The rate at which so many other passages keep the limit with this probability.

        The lower end of Clopper and Pearson's interval of the most that the limit allows. Where it
        allows none of so few passages, it may be that of as many as it takes to allow one.
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

    @property
    def asked(self) -> dict[str, float]:
        return {"max_loss_increase": self.limit}

    def cost(self, point: Point) -> float:
        return point.heldout_loss

    def met(self, point: Point, base: Point) -> bool:
        cheap = point.heldout_loss - base.heldout_loss <= self.limit
        return cheap and point.recovered < base.recovered

    def order(self, point: Point) -> Order:
        return point.recovered, point.heldout_loss, size_of(point.selection)

    def beyond(self, point: Point, base: Point) -> bool:
        return point.heldout_loss - base.heldout_loss > self.limit

    def rates(self, passages: int) -> tuple[float, float]:
        return 0.0, 1.0
