"""The sets of units that are expected to do most at the least cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evals.search.estimates import Changes, Estimates, Expected, Floats
from evals.search.units import Units

_PRICES = np.geomspace(1e-4, 1.0, 20)  # nats of KL for a fall of the rate by the factor e
_EXCHANGED = 24  # units that are tried in place of one
_NEAREST = 200  # sets
_FEW = 1e-6  # a rate that is as good as none
_SLACK = 1e-9  # by which nothing is better

Indices = frozenset[int]
Worth = Callable[[Expected], Floats]


def least(estimates: Estimates, rate: float, begin: Units = frozenset()) -> list[Units]:
    """For each pool the set that is expected to leave at most `rate`, at the least cost.

    Greedy, with rising prices of what is still recovered: the best unit is added, taken out or
    exchanged for as long as that makes the set better. A price that is met once is enough.
    `begin`: where to begin.
    """
    found = []
    for pool in estimates.pools:
        allowed = np.array(estimates.indices(pool), dtype=np.int64)
        chosen = frozenset(estimates.indices(begin & pool))
        for price in _PRICES:
            chosen = _improved(estimates, chosen, allowed, worth_at(price, rate))
            left = estimates.changed(chosen, np.array([[-1, -1]])).recovered[0]
            if left <= rate * 1.001 + _FEW:
                break
        found.append(frozenset(estimates.units[index] for index in chosen))
    return [chosen for chosen in dict.fromkeys(found) if chosen]


def worth_at(price: float, rate: float) -> Worth:
    """Less KL, and less recovered down to `rate`, at `price` nats for a fall by the factor e."""

    def worth(expected: Expected) -> Floats:
        excess = np.log((expected.recovered + _FEW) / (rate + _FEW))
        worth: Floats = -expected.heldout_kl - price * np.maximum(excess, 0)
        return worth

    return worth


def near(estimates: Estimates, chosen: Units, worth: Worth) -> list[Units]:
    """Sets with a unit less, more or exchanged, best first."""
    here = frozenset(estimates.indices(chosen))
    found: dict[Indices, float] = {}
    for pool in estimates.pools:
        if chosen <= pool:
            allowed = np.array(estimates.indices(pool), dtype=np.int64)
            changes = np.concatenate(
                [_steps(estimates, here, allowed), _exchanges(estimates, here, allowed, allowed)]
            )
            values = (-worth(estimates.changed(here, changes))).tolist()
            for change, value in zip(changes.tolist(), values, strict=True):
                found[_after(here, change)] = value
    ordered = sorted(found, key=lambda one: (found[one], sorted(one)))[:_NEAREST]
    return [frozenset(estimates.units[index] for index in one) for one in ordered if one]


def _improved(estimates: Estimates, chosen: Indices, pool: Changes, worth: Worth) -> Indices:
    best = worth(estimates.changed(chosen, np.array([[-1, -1]])))[0]
    while True:
        changes = _steps(estimates, chosen, pool)
        values = worth(estimates.changed(chosen, changes))
        if values.max(initial=-np.inf) <= best + _SLACK:
            added = changes[:, 1][np.argsort(-values, kind="stable")]
            promising = added[added >= 0][:_EXCHANGED]
            changes = _exchanges(estimates, chosen, pool, promising)
            values = worth(estimates.changed(chosen, changes))
        if values.max(initial=-np.inf) <= best + _SLACK:
            return chosen
        place = int(values.argmax())
        chosen, best = _after(chosen, changes[place].tolist()), values[place]


def _after(chosen: Indices, change: list[int]) -> Indices:
    less, more = change
    return (chosen | {more}) - {less, -1}


def _steps(estimates: Estimates, chosen: Indices, pool: Changes) -> Changes:
    """A unit more, and a unit less."""
    free = pool[_fits_beside(estimates, chosen)[pool]]
    steps = [(-1, unit) for unit in free] + [(unit, -1) for unit in sorted(chosen)]
    return np.array(steps, dtype=np.int64).reshape(-1, 2)


def _exchanges(estimates: Estimates, chosen: Indices, pool: Changes, promising: Changes) -> Changes:
    """Each unit exchanged for one that edits some of its heads, or for one of `promising`."""
    found: list[tuple[int, int]] = []
    for unit in sorted(chosen):
        fits = _fits_beside(estimates, chosen - {unit})
        fits[unit] = False
        wanted = (estimates.heads & estimates.heads[unit]).any(axis=1)
        wanted[promising] = True
        found += [(unit, other) for other in pool[(fits & wanted)[pool]]]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _fits_beside(estimates: Estimates, chosen: Indices) -> npt.NDArray[np.bool_]:
    taken = estimates.heads[sorted(chosen)].any(axis=0)
    fits: npt.NDArray[np.bool_] = np.logical_not((estimates.heads & taken).any(axis=1))
    return fits
