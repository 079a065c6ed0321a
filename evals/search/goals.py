"""What a search is asked for, in terms of measured points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evals.search.front import Point, size_of
from surgery.selection import Selection

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

    def rates(self, base: Point) -> tuple[float, float]:
        """Where to look, as shares of the passages: the highest, and the lowest."""


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

    def rates(self, base: Point) -> tuple[float, float]:
        return max(self.limit, base.recovered / 3), self.limit / 2


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

    def rates(self, base: Point) -> tuple[float, float]:
        return base.recovered / 2, 0.0
