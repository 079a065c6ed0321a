"""Searches for the edit, a set of units, that meets a goal at the least cost.

Without estimates, it measures all sets of units, and the answer is the best there is. With them:

1. Compose sets that should leave less and less recovered, and measure them.
2. In rounds, compose new sets, and measure them and some that differ from the best so far by one
   unit, until two rounds find nothing better.
3. Measure a few whole blocks and pairs of blocks that might be better: a plain scan finds those.
   Then repeat step 2.

Every measurement corrects the estimates. Only measurements decide what is accepted. Nothing here
knows about models: `evaluate` gives points for selections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evals.choose.estimates import Changes, Estimates, Expected, Floats, Indices
from evals.choose.grid import EditPoint
from evals.choose.search.goal import Goal, Order
from evals.choose.units import list_sets, merge_units
from surgery.selection import EditedHeads, Selection

ROUND = 6  # sets to measure in a round
PATIENCE = 2  # rounds that may find nothing better
_STEPS = 5  # sets to measure first
_FEW = 1e-6  # a rate that is as good as none
_LEAST = 1e-9  # a change that is none
_FAR_OFF = np.array([-0.4, 1.0])  # an error to allow for: logarithms of cost and of drift

Start = tuple[Indices, Indices]
"""A set to change by a unit, and the units that may join it."""
Evaluate = Callable[[Sequence[Selection]], Sequence[EditPoint]]
"""Selections → their points, in order; () is the unedited model."""


def find(
    evaluate: Evaluate,
    units: Sequence[EditedHeads],
    goal: Goal,
    estimates: Estimates | None,
    *,
    holds: Callable[[Selection], bool] = lambda selection: True,
    max_evaluations: int,
) -> Found:
    """Finds the selection of `units` that meets `goal` at the least cost.

    - `estimates`: of `units`, which all differ; None: measure all sets of them.
    - `holds`: whether a selection may be measured.
    - `max_evaluations`: edits to measure at most, not counting the unedited model.
    """
    (base,) = evaluate([()])
    found = Found(evaluate, tuple(units), goal, holds, base, max_evaluations, estimates)
    explore(found)
    return found


def explore(found: Found) -> None:
    """Measures sets until the budget is used up, or nothing better is found.

    Goes on from what was measured, so a larger budget only adds.
    """
    if found.estimates is None:
        found.measure(list_sets(found.units))
        return
    highest = found.base.recovered / 3
    aim = max(found.goal.rates(found.estimates.others)[0], 0.1 / found.estimates.passages)
    for rate in np.geomspace(max(highest, aim), aim, _STEPS):
        found.measure([compose(found.guide, float(rate))])
    _improve(found, aim)
    found.measure(_rank_promising(found, aim, _start_from_blocks(found)), most=ROUND)
    _improve(found, aim)


def _improve(found: Found, aim: float) -> None:
    """Measures rounds of sets that may beat the best, until that no longer helps."""
    best, stale, more = found.best, 0, True
    while more and stale < PATIENCE:
        composed = [compose(found.guide, rate) for rate in (aim, _aim_between(found))]
        near = _rank_promising(found, aim, _start_near_best(found))
        more = found.measure([*composed, *near], most=ROUND)
        stale = stale + 1 if found.best == best else 0
        best = found.best


@dataclass
class Found:
    """The measured sets of units, by index, with their points. Arguments as for `find`.

    Every measurement corrects `estimates`; None where all sets are measured. `deep`: sets that were
    measured to compare with; `compared`: those of them that the budget does not pay for.
    """

    evaluate: Evaluate
    units: tuple[EditedHeads, ...]
    goal: Goal
    holds: Callable[[Selection], bool]
    base: EditPoint
    budget: int
    estimates: Estimates | None
    measured: dict[Indices, EditPoint] = field(default_factory=dict)
    compared: set[Indices] = field(default_factory=set)
    deep: set[Indices] = field(default_factory=set)

    def measure(self, sets: Iterable[Indices], most: int | None = None) -> bool:
        """Measures the first `most` of `sets` that are new and allowed, within the budget.

        Returns whether there were any.
        """
        left = max(0, self.budget - self.evaluations)
        known = {point.selection for point in self.measured.values()}
        new: dict[Selection, Indices] = {}
        for chosen in sets:
            if len(new) == min(left, left if most is None else most):
                break
            selection = merge_units(self.units[unit] for unit in chosen)
            if selection and selection not in known | new.keys() and self.holds(selection):
                new[selection] = chosen
        points = self.evaluate(list(new))
        self.measured |= zip(new.values(), points, strict=True)
        if new and self.estimates is not None:
            costs = {chosen: p.cost for chosen, p in self.measured.items()}
            rates = {chosen: p.recovered for chosen, p in self.measured.items()}
            self.estimates = self.estimates.correct(costs, rates)
        return bool(new)

    @property
    def evaluations(self) -> int:
        """The number of edits that the budget paid for."""
        return len(self.measured.keys() - self.compared)

    def compare_with(self, points: Mapping[Indices, EditPoint]) -> None:
        """Adds what was measured to compare with, unless it is measured under another name."""
        known = {point.selection: chosen for chosen, point in self.measured.items()}
        for chosen, point in points.items():
            if point.selection not in known:
                self.compared.add(chosen)
            name = known.get(point.selection, chosen)
            self.deep.add(name)
            self.measured[name] = point

    @property
    def met(self) -> list[Indices]:
        """The sets that meet the goal, best first."""
        some = [chosen for chosen, p in self.measured.items() if self.goal.met(p)]
        return sorted(some, key=self.rank)

    def rank(self, chosen: Indices) -> tuple[bool, Order]:
        """Orders sets that meet the goal, the better first."""
        return self.is_doubtful(chosen), self.goal.order(self.measured[chosen])

    def is_doubtful(self, chosen: Indices) -> bool:
        """Whether a set may miss the goal on other passages.

        A set composed on the passages at hand may fit no other passages. One or two whole blocks
        leave too little choice for that, and sets to compare with were not composed.
        """
        if self.estimates is None or (len(chosen) <= 2 and chosen <= self.estimates.blocks):
            return False
        if chosen in self.compared:
            return False
        _, highest = self.goal.rates(self.estimates.others)
        return float(self.estimates.predict(chosen).rate[0]) > highest

    @property
    def best(self) -> Indices:
        """The set that meets the goal best; if none does, the one that leaves least."""
        by_rate = sorted(self.measured, key=lambda chosen: self.measured[chosen].recovered)
        return next(iter([*self.met, *by_rate]), Indices())

    @property
    def guide(self) -> Estimates:
        assert self.estimates is not None
        return self.estimates


def _aim_between(found: Found) -> float:
    """The rate halfway, on a logarithmic scale, between sets on either side of the goal."""
    rates = {chosen: float(found.guide.predict(chosen).rate[0]) for chosen in found.measured}
    beyond = {one for one, point in found.measured.items() if found.goal.met(point)}
    high = min((rates[one] for one in rates if one not in beyond), default=found.base.recovered)
    low = max((rates[one] for one in beyond if rates[one] < high), default=high / 16)
    return float((high * low) ** 0.5)


def _start_from_blocks(found: Found) -> Iterator[Start]:
    """Starts at single blocks, and at pairs of blocks."""
    whole = found.guide.blocks
    for begin in [Indices(), *(Indices([block]) for block in sorted(whole))]:
        yield begin, whole


def _start_near_best(found: Found) -> Iterator[Start]:
    """Starts at the best set, and at the cheapest that meets the goal."""
    met = sorted(found.met, key=lambda one: found.goal.order(found.measured[one]))
    for begin in dict.fromkeys([found.best, *met[:1]]):
        yield begin, Indices(range(len(found.units)))


def _rank_promising(found: Found, aim: float, starts: Iterable[Start]) -> list[Indices]:
    """Sets that could beat the best if the estimates were far off, best first."""
    guide = found.guide
    (kl,), (rate,) = guide.predict(found.best)
    price = kl / max(np.log(found.base.recovered / max(rate, _FEW)), 1e-3)  # that the best pays
    dear = [
        point.cost
        for chosen, point in found.measured.items()
        if found.goal.met(point) and not found.is_doubtful(chosen)
    ]
    most, (_, highest) = min(dear, default=np.inf), found.goal.rates(guide.others)
    hopeful = replace(guide, corrections=guide.corrections + _FAR_OFF)
    values: dict[Indices, float] = {}
    for begin, among in starts:
        changes = _list_changes(guide, begin, among, elsewhere=True)
        hoped = hopeful.predict(begin, changes)
        changes = changes[(hoped.kl < most) & (hoped.rate <= highest)]
        expected = guide.predict(begin, changes)
        worth = (expected.kl + price * _measure_excess(expected, aim)).tolist()
        values |= zip((_apply_change(begin, change) for change in changes), worth, strict=True)
    return sorted(values, key=lambda chosen: (values[chosen], sorted(chosen)))


def compose(estimates: Estimates, rate: float, begin: Iterable[int] = ()) -> Indices:
    """Composes a set that should leave at most `rate` recovered, at little cost.

    Greedy: from the set `begin` on, each step changes the unit that lowers the rate most for its
    cost.
    """
    chosen = Indices(begin)
    while True:
        before, changes = estimates.predict(chosen), _list_changes(estimates, chosen)
        if before.rate[0] <= rate or not len(changes):
            return chosen
        after = estimates.predict(chosen, changes)
        fall = _measure_excess(before, rate) - _measure_excess(after, rate)
        price = np.maximum(after.kl - before.kl, _LEAST) / np.maximum(fall, _LEAST)
        best = int(np.argmin(price))
        if fall[best] <= _LEAST:
            return chosen
        chosen = _apply_change(chosen, changes[best])


def _measure_excess(expected: Expected, rate: float) -> Floats:
    """By how many factors of e sets exceed `rate`: [M]."""
    return np.asarray(np.maximum(np.log((expected.rate + _FEW) / (rate + _FEW)), 0))


def list_changed(estimates: Estimates, chosen: Indices, rate: float, kl: float) -> list[Indices]:
    """Sets that differ from `chosen` by a unit, and should leave at most `rate` at less than `kl`.

    The cheapest comes first.
    """
    changes = _list_changes(estimates, chosen, elsewhere=True)
    after = estimates.predict(chosen, changes)
    fits = (after.rate <= rate) & (after.kl < kl)
    changed = (_apply_change(chosen, change) for change in changes[fits])
    costs = dict(zip(changed, after.kl[fits].tolist(), strict=True))
    return sorted(costs, key=lambda other: (costs[other], sorted(other)))


def _list_changes(
    estimates: Estimates,
    chosen: Indices,
    among: Indices | None = None,
    *,
    elsewhere: bool = False,
) -> Changes:
    """Lists changes that a layout can hold: a unit joins, one leaves, or one replaces one of the
    same heads.

    With `elsewhere`, it may replace any. `among`: the units that may join, by default all.
    """
    found = []
    for less in (-1, *sorted(chosen)):
        others = sorted(chosen - {less})
        taken, held = estimates.heads[others].any(axis=0), estimates.held[others].all(axis=0)
        free = ~(estimates.heads & taken).any(axis=1)
        fits = np.asarray(free & (estimates.held & held).any(axis=1))
        if less >= 0:
            found.append((less, -1))
            fits[less] = False
            if not elsewhere:
                fits &= (estimates.heads & estimates.heads[less]).any(axis=1)
        found += [
            (less, int(unit)) for unit in np.flatnonzero(fits) if among is None or unit in among
        ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _apply_change(chosen: Indices, change: Iterable[int]) -> Indices:
    less, more = (int(unit) for unit in change)
    return (chosen - {less}) | ({more} - {-1})
