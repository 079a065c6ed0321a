"""A measured edit as a point, the Pareto front of points, and points as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from evals.measure.edits.costs import find_worst
from evals.measure.edits.engine import MeasuredEdit
from evals.measure.memorization.recovery import NAMES, Recovery, make_recovery
from surgery.record.report import Limit
from surgery.selection import Selection


@dataclass(frozen=True)
class EditPoint:
    """An edit, with means over passages and over held-out windows.

    - `recovered`: the share of passages that the goal's measure recovers. `exact_match`: the share
      recited word for word. `next_token_accuracy`: the mean share of suffix tokens that are right,
      teacher-forced.
    - `rates`: measures, at least those of `recovery.NAMES`, with the shares that they
      recover. `attacked`: longer attacks, with the share, and of how many passages.
    - `drops`: limits on benchmarks, on half of their documents.
    - `heldout_loss`: nats per token. `heldout_kl`: KL(base || edited), nats per token. `costs`: its
      other measures (`evals.measure.edits.costs`).
    - `refitted`: whether blocks with fits have them as an export would, after the edits below them,
      and not those of the unedited model.
    - `healed_rise`: where `attacked` is of the healed edit, its held-out loss over the
      base's, in nats per token.
    """

    selection: Selection
    recovered: float
    exact_match: float
    next_token_accuracy: float
    heldout_loss: float
    heldout_kl: float
    rates: tuple[tuple[str, float], ...] = ()
    attacked: tuple[tuple[str, float, int], ...] = ()
    healed_rise: float | None = None
    refitted: bool = True
    costs: tuple[tuple[str, float], ...] = ()
    drops: tuple[Limit, ...] = ()

    @property
    def worst(self) -> tuple[str, float]:
        """The largest measure of the cost that counts, by name and in nats."""
        return find_worst({"kl": self.heldout_kl, **dict(self.costs)})

    @property
    def tried(self) -> set[str]:
        return {name for name, _, _ in self.attacked} | {one.name for one in self.drops}

    @property
    def known(self) -> dict[str, float]:
        """Attack → the share that it recovers, where that was measured."""
        return dict(self.rates) | {name: rate for name, rate, _ in self.attacked}

    def excess(self, limits: Mapping[str, float]) -> float:
        """By how much, in all, the rates and drops that were measured exceed `limits`."""
        known = self.known | {one.name: one.value for one in self.drops}
        return sum(max(known.get(name, 0.0) - most, 0.0) for name, most in limits.items())


def point_of(measured: MeasuredEdit, measure: Recovery, names: Iterable[str] = NAMES) -> EditPoint:
    """Means over all measured rows and windows. `names`: of the measures for `rates`."""
    seen = measured.evidence
    return EditPoint(
        selection=measured.selection,
        recovered=float(measure.recovered(seen).mean()),
        rates=tuple((name, float(make_recovery(name).recovered(seen).mean())) for name in names),
        exact_match=float(measured.exact.mean()),
        next_token_accuracy=float(measured.next_token_accuracy.mean()),
        heldout_loss=float(measured.heldout_nll.mean()),
        heldout_kl=float(measured.heldout_kl.mean()),
        costs=tuple((name, nats) for name, nats in measured.costs.items() if name != "kl"),
    )


def pareto_front(
    points: Iterable[EditPoint], cost: Callable[[EditPoint], float]
) -> list[EditPoint]:
    """The points that no other equals or beats in both `recovered` and `cost`, cheapest first.

    Of points equal in both, the one with the smaller selection stays.
    """
    front: list[EditPoint] = []
    for point in sorted(points, key=lambda p: (cost(p), p.recovered, size_of(p.selection))):
        if not front or point.recovered < front[-1].recovered:
            front.append(point)
    return front


def size_of(selection: Selection) -> tuple[int, Selection]:
    """The number of edited heads, then the selection itself: a total order."""
    return sum(len(part.heads) for part in selection), selection


_STORED = TypeAdapter(EditPoint)


def point_as_json(point: EditPoint) -> dict[str, Any]:
    """A point as the progress of a search holds it."""
    stored: dict[str, Any] = _STORED.dump_python(point, mode="json")
    return stored


def point_from_json(stored: Any) -> EditPoint:
    """Raises `ValueError` for anything else than `point_as_json` gives."""
    point = _STORED.validate_python(stored)
    if not set(NAMES) <= {name for name, _ in point.rates}:
        raise ValueError(f"rates: expected {', '.join(NAMES)}")
    return point
