"""One measured edit as a point, and the points that no other beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from evals.sweep.engine import Measured
from surgery.selection import Selection


@dataclass(frozen=True)
class Point:
    """An edit, with means over passages and over held-out windows.

    - `exact_match`: the share of passages that are recited word for word.
    - `memorization_score`: the mean share of suffix tokens that are, teacher-forced.
    - `recall`: the mean of exp(-nll), the geometric mean probability that a suffix's tokens get: a
      smooth stand-in for `exact_match`, which stays the same until a passage breaks.
    - `heldout_loss`: nats per token. `heldout_kl`: KL(base || edited), nats per token.
    """

    selection: Selection
    exact_match: float
    memorization_score: float
    recall: float
    heldout_loss: float
    heldout_kl: float


def point_of(measured: Measured) -> Point:
    """Means over every row and window that was measured."""
    return Point(
        selection=measured.selection,
        exact_match=float(measured.exact.mean()),
        memorization_score=float(measured.score.mean()),
        recall=float(np.exp(-measured.nll).mean()),
        heldout_loss=float(measured.heldout_nll.mean()),
        heldout_kl=float(measured.heldout_kl.mean()),
    )


def pareto_front(points: Iterable[Point], cost: Callable[[Point], float]) -> list[Point]:
    """The points that no other equals or beats in both `exact_match` and `cost`, cheapest first.

    Of points that are equal in both, the one with the smaller selection stays.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (cost(p), p.exact_match, size_of(p.selection))):
        if not front or point.exact_match < front[-1].exact_match:
            front.append(point)
    return front


def size_of(selection: Selection) -> tuple[int, Selection]:
    """How many heads are edited; then the selection itself, so that every order is a total one."""
    return sum(len(part.heads) for part in selection), selection
