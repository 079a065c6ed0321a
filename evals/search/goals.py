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
        """What an edit costs: the axis of the Pareto front beside `exact_match`."""

    def met(self, point: Point, base: Point) -> bool:
        """Whether an edit will do."""

    def order(self, point: Point) -> Order:
        """Of two edits that will do, the smaller is better."""

    def grows(self, point: Point, base: Point, best: Point | None) -> bool:
        """Whether more units may turn an edit into one that is better than `best`."""


@dataclass(frozen=True)
class MaxExtraction:
    """At most `limit` (0 to 1) of the passages recited, at the least held-out KL."""

    limit: float

    @property
    def asked(self) -> dict[str, float]:
        return {"max_extraction": self.limit}

    def cost(self, point: Point) -> float:
        return point.heldout_kl

    def met(self, point: Point, base: Point) -> bool:
        return point.exact_match <= self.limit

    def order(self, point: Point) -> Order:
        return point.heldout_kl, point.exact_match, size_of(point.selection)

    def grows(self, point: Point, base: Point, best: Point | None) -> bool:
        return not self.met(point, base) and (best is None or point.heldout_kl < best.heldout_kl)


@dataclass(frozen=True)
class MaxLossIncrease:
    """The fewest passages recited, with held-out loss at most `limit` nats per token higher."""

    limit: float

    @property
    def asked(self) -> dict[str, float]:
        return {"max_loss_increase": self.limit}

    def cost(self, point: Point) -> float:
        return point.heldout_loss

    def met(self, point: Point, base: Point) -> bool:
        cheap = point.heldout_loss - base.heldout_loss <= self.limit
        return cheap and point.exact_match < base.exact_match

    def order(self, point: Point) -> Order:
        return point.exact_match, point.heldout_loss, size_of(point.selection)

    def grows(self, point: Point, base: Point, best: Point | None) -> bool:
        return point.heldout_loss - base.heldout_loss < self.limit and point.exact_match > 0
