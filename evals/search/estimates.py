"""What sets of units would do, to first order, and the sets that would do it at the least cost.

A unit's responses are a row of numbers: how it moves likelihoods on held-out text, and how it moves
the margin of every suffix token of the passages. Rows add, so any set is estimated in microseconds.

Shape letters: U units, E likelihoods on held-out text, N passages, S suffix tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.special import ndtr

from evals.memorization.recovery import Recovery
from evals.running.processes import Processes, map_in_order
from evals.search.front import Point
from evals.search.units import Units, clash
from surgery.selection import Part

Floats = npt.NDArray[np.floating[Any]]
Indices = frozenset[int]

DRIFT = 1.4
"""By how many ρ² margins fall; that is what was measured on a model of 24 blocks."""
_DRIFTS = np.geomspace(DRIFT / 8, DRIFT * 8, 49)
_SURE = 0.05  # nats of margin that no estimate is surer of
_OWN = 0.15  # share of the cost that is counted unit by unit, so that noise cannot cancel cost
_PRICES = np.geomspace(1e-4, 1.0, 20)  # nats of KL for a fall of the rate by the factor e
_DETOURS = (1.0, 0.75, 0.55)  # of the drift
_EXCHANGED = 24  # units that are tried in place of one
_FEW = 1e-6  # a rate that is as good as none
_PART = 64  # units that are added in turn, at a time
_SLACK = 1e-9  # by which nothing is better
_WORTH_SHARING = 1 << 18  # numbers of `moved`


@dataclass(frozen=True)
class Expected:
    """Of an edit: KL(base || edited) on held-out text, and the share of passages recovered."""

    heldout_kl: float
    recovered: float


@dataclass(frozen=True, eq=False)
class Estimates:
    """Responses of units, and what they say about sets of them.

    - `units`: those that were looked at. `pools`: which of them one layout holds together.
    - `cost`: float32 [U, E]; the mean square of the sum of a set's rows is its KL, nats per token.
    - `moved`: float32 [U, N, S], changes of margins, in nats; they add as well. `margins`: those of
      the unedited model [N, S]. Only the passages that it gives away are looked at; `passages` is
      the number that rates refer to.
    - `drift`: see `_rate`.
    - `processes`: which share what sets are tried; each asks for the same ones.
    """

    units: tuple[Part, ...]
    pools: tuple[frozenset[Part], ...]
    cost: Floats
    moved: Floats
    margins: Floats
    passages: int
    measure: Recovery
    drift: float = DRIFT
    processes: Processes = field(default_factory=Processes)

    def expected(self, chosen: Iterable[Part]) -> Expected:
        kl, rate = self._figures(self._sum(self._indices(chosen)))
        return Expected(float(kl), float(rate))

    def least(self, rate: float, begin: Units = frozenset()) -> list[Units]:
        """For each pool the set that is expected to leave at most `rate`, at the least cost.

        Greedy, with rising prices of what is still recovered: the best unit is added, taken out or
        exchanged for as long as that makes the set better. A price that is met once is enough.
        `begin`: where to begin.
        """
        found = []
        for pool in self._allowed:
            chosen = frozenset(self._indices(begin)) & frozenset(pool.tolist())
            for price in _PRICES:

                def worth(kl: Floats, rates: Floats, price: float = price) -> Floats:
                    excess = np.log((rates + _FEW) / (rate + _FEW))
                    worth: Floats = -kl - price * np.maximum(excess, 0)
                    return worth

                chosen = self._improved(chosen, pool, worth)
                if float(self._figures(self._sum(chosen))[1]) <= rate * 1.001 + _FEW:
                    break
            found.append(frozenset(self.units[index] for index in chosen))
        return [chosen for chosen in dict.fromkeys(found) if chosen]

    def cheapest(self, rate: float) -> list[Units]:
        """As `least`, from several ways there: those that it takes were margins to fall less.

        Greedy ways end where no exchange of one unit helps, which can be far from the best.
        """
        found = [
            chosen
            for share in _DETOURS
            for chosen in replace(self, drift=share * self.drift).least(rate)
        ]

        def order(chosen: Units) -> tuple[float, float, list[Part]]:
            expected = self.expected(chosen)
            excess = max(0.0, expected.recovered - rate * 1.001 - _FEW)
            return excess, expected.heldout_kl, sorted(chosen)

        held = ([chosen for chosen in found if chosen <= pool] for pool in self.pools)
        return list(dict.fromkeys(min(some, key=order) for some in held if some))

    def near(self, chosen: Units) -> list[Units]:
        """Sets with a unit less, more or exchanged, best first, at the price paid for `chosen`."""
        here = frozenset(self._indices(chosen))
        kl, rate = self._figures(self._sum(here))
        base = float(self._figures(self._sum(frozenset()))[1])
        price = float(kl) / max(np.log((base + _FEW) / (float(rate) + _FEW)), 1e-3)

        def worth(kl: Floats, rates: Floats) -> Floats:
            value: Floats = -kl - price * np.log(rates + _FEW)
            return value

        found: dict[Indices, float] = {}
        for pool in self._allowed:
            if here <= frozenset(pool.tolist()):
                singles = self._singles(here, pool, worth)
                for tried in (*singles, *self._exchanges(here, pool, singles[0], worth)):
                    for place, value in enumerate(tried.values.tolist()):
                        found[tried.set(place)] = value
        ordered = sorted(found, key=lambda one: (-found[one], sorted(one)))
        return [frozenset(self.units[index] for index in one) for one in ordered if one]

    def corrected(self, measured: Collection[tuple[Units, Point]]) -> Estimates:
        """With the drift that explains best what measured sets left recovered."""
        sums = [self._sum(self._indices(chosen))[1] for chosen, _ in measured]
        true = np.sqrt([point.recovered for _, point in measured])

        def error(drift: float) -> float:
            other = replace(self, drift=drift)
            rates = np.array([other._rate(moved) for moved in sums])
            return float(np.square(np.sqrt(rates) - true).sum())

        prior = np.square(np.log(_DRIFTS / DRIFT)) * 1e-3
        errors = [error(drift) for drift in _DRIFTS] + prior
        return replace(self, drift=float(_DRIFTS[int(np.argmin(errors))]))

    def _rate(self, moved: Floats) -> Floats:
        """[..., N, S] summed changes of margins -> the share of passages that stays recovered.

        ρ², the mean square change within a passage, says more about other passages than the changes
        themselves, which a set can be fitted to. A margin is taken to move by ρ at random, to fall
        by `drift` ρ², and to be uncertain by as much as ρ², as terms of second order do.
        """
        changes = torch.from_numpy(moved)  # several times as fast as numpy and scipy
        square = changes.square().mean(dim=-1, keepdim=True)
        spread = torch.sqrt(_SURE**2 + square + square**2)
        right = ndtr((torch.from_numpy(self.margins) - self.drift * square) / spread)
        by_token = right.movedim(-1, 0).contiguous().movedim(0, -1)  # as a measure goes through it
        rate: Floats = self.measure.chance(by_token.numpy()).sum(axis=-1) / self.passages
        return rate

    def _sum(self, chosen: Iterable[int]) -> tuple[Floats, Floats, float]:
        some = sorted(chosen)
        return self.cost[some].sum(axis=0), self.moved[some].sum(axis=0), self._own[some].sum()

    def _figures(self, total: tuple[Floats, Floats, Any]) -> tuple[Floats, Floats]:
        cost, moved, own = total
        kl: Floats = (1 - _OWN) * np.square(cost).mean(axis=-1) + _OWN * own
        return kl, self._rate(moved)

    def _with(self, chosen: Indices, more: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The figures of a set with one of `more` added, for each of them."""
        cost, moved, own = self._sum(chosen)
        added = cost + self.cost[more], moved + self.moved[more], own + self._own[more]
        return self._figures(added)

    def _improved(self, chosen: Indices, pool: npt.NDArray[np.int64], worth: Worth) -> Indices:
        best = float(worth(*self._figures(self._sum(chosen))))
        while True:
            tried = self._singles(chosen, pool, worth)
            value, better = _best(tried)
            if value <= best + _SLACK:
                value, better = _best(self._exchanges(chosen, pool, tried[0], worth))
            if value <= best + _SLACK:
                return chosen
            chosen, best = better, value

    def _singles(
        self, chosen: Indices, pool: npt.NDArray[np.int64], worth: Worth
    ) -> tuple[Tried, ...]:
        """A unit more, and a unit less."""
        free = pool[self._fits_beside(chosen)[pool]]

        def more(some: npt.NDArray[np.int64]) -> Floats:
            return worth(*self._with(chosen, some))

        parts = np.split(free, range(_PART, len(free), _PART)) if len(free) else []
        values = [np.empty(0), *map_in_order(parts, more, processes=self._sharing)]
        added = Tried((chosen,) * len(free), free, np.concatenate(values))
        fewer = [chosen - {unit} for unit in sorted(chosen)]
        if not fewer:
            return (added,)
        cost, moved, own = map(np.stack, zip(*map(self._sum, fewer), strict=True))
        none = np.full(len(fewer), -1)
        return added, Tried(tuple(fewer), none, worth(*self._figures((cost, moved, own))))

    def _exchanges(
        self, chosen: Indices, pool: npt.NDArray[np.int64], added: Tried, worth: Worth
    ) -> list[Tried]:
        """Each unit exchanged for one that clashes with it, or for one best `added`."""
        promising = added.units[np.argsort(-added.values, kind="stable")[:_EXCHANGED]]
        instead: dict[int, npt.NDArray[np.int64]] = {}
        for unit in sorted(chosen):
            beside = self._fits_beside(chosen - {unit})[pool]
            others = pool[beside & self._clashes[unit][pool] & (pool != unit)]
            if len(others) + len(promising):
                instead[unit] = np.concatenate([others, promising])

        def one(unit: int) -> Floats:
            return worth(*self._with(chosen - {unit}, instead[unit]))

        found = map_in_order(list(instead), one, processes=self._sharing)
        return [
            Tried((chosen - {unit},) * len(values), instead[unit], values)
            for unit, values in zip(instead, found, strict=True)
        ]

    @property
    def _sharing(self) -> Processes:
        """A handful of numbers is sooner tried than it gets from one process to another."""
        return self.processes if self.moved.size >= _WORTH_SHARING else Processes()

    def _fits_beside(self, chosen: Indices) -> npt.NDArray[np.bool_]:
        free: npt.NDArray[np.bool_] = np.logical_not(self._clashes[sorted(chosen)].any(axis=0))
        return free

    def _indices(self, chosen: Iterable[Part]) -> list[int]:
        return [self._index[unit] for unit in chosen]

    @cached_property
    def _index(self) -> dict[Part, int]:
        return {unit: index for index, unit in enumerate(self.units)}

    @cached_property
    def _allowed(self) -> list[npt.NDArray[np.int64]]:
        return [np.array(sorted(self._indices(pool)), dtype=np.int64) for pool in self.pools]

    @cached_property
    def _own(self) -> Floats:
        own: Floats = np.square(self.cost).mean(axis=1)
        return own

    @cached_property
    def _clashes(self) -> npt.NDArray[np.bool_]:
        """[U, U], each unit with itself too."""
        found = np.zeros((len(self.units), len(self.units)), dtype=np.bool_)
        by_block: dict[int, list[int]] = {}
        for index, unit in enumerate(self.units):
            by_block.setdefault(unit.block, []).append(index)
        for some in by_block.values():
            for one in some:
                found[one, some] = [clash(self.units[one], self.units[other]) for other in some]
        return found


Worth = Callable[[Floats, Floats], Floats]
"""KL and rates of sets -> what they are worth."""


@dataclass(frozen=True, eq=False)
class Tried:
    """Sets, each with one unit more (none where it is negative), and what they are worth."""

    begun: tuple[Indices, ...]
    units: npt.NDArray[np.int64]
    values: Floats

    def set(self, place: int) -> Indices:
        unit = int(self.units[place])
        return self.begun[place] if unit < 0 else self.begun[place] | {unit}


def _best(tried: Iterable[Tried]) -> tuple[float, Indices]:
    """The first of those worth most."""
    best: tuple[float, Indices] = (-np.inf, frozenset())
    for one in tried:
        if len(one.values):
            place = int(np.argmax(one.values))
            if one.values[place] > best[0]:
                best = float(one.values[place]), one.set(place)
    return best
