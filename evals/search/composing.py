"""The sets of units that are expected to do most at the least cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from evals.search.estimates import Changes, Estimates, Expected, Floats, Indices

_NEAREST = 200  # sets
_FEW = 1e-6  # a rate that is as good as none
_LEAST = 1e-9  # a change that is none


def compose(estimates: Estimates, rate: float, pool: Indices) -> Indices:
    """A set that is expected to leave at most `rate`, at little cost.

    Greedy: time and again it changes by the unit that lowers the rate most for its cost.
    """
    chosen = Indices()
    while True:
        before, changes = estimates.expected(chosen), _changes(estimates, chosen, pool)
        if before.rate[0] <= rate or not len(changes):
            return chosen
        after = estimates.expected(chosen, changes)
        fall = _excess(before, rate) - _excess(after, rate)
        price = np.maximum(after.kl - before.kl, _LEAST) / np.maximum(fall, _LEAST)
        best = int(price.argmin())
        if fall[best] <= _LEAST:
            return chosen
        chosen = _changed(chosen, changes[best])


def neighbors(estimates: Estimates, chosen: Indices, rate: float, price: float) -> list[Indices]:
    """Sets with a unit more, less, or exchanged, best first."""
    found: dict[Indices, float] = {}
    for pool in estimates.pools:
        if chosen <= pool:
            changes = _changes(estimates, chosen, pool, pool)
            values = value(estimates.expected(chosen, changes), rate, price).tolist()
            found |= zip((_changed(chosen, change) for change in changes), values, strict=True)
    ordered = sorted(found, key=lambda one: (found[one], sorted(one)))
    return [one for one in ordered if one][:_NEAREST]


def value(expected: Expected, rate: float, price: float) -> Floats:
    """The cost in nats, and `price` nats for each factor of e that stays recovered above `rate`."""
    return np.asarray(expected.kl + price * _excess(expected, rate))


def _excess(expected: Expected, rate: float) -> Floats:
    return np.asarray(np.maximum(np.log((expected.rate + _FEW) / (rate + _FEW)), 0))


def _changes(
    estimates: Estimates, chosen: Indices, pool: Indices, tried: Collection[int] = ()
) -> Changes:
    """A unit joins, leaves, or is exchanged for one of the same heads or for one of `tried`."""
    found = []
    for less in (-1, *sorted(chosen)):
        fits = estimates.free(chosen - {less})
        if less >= 0:
            found.append((less, -1))
            near = (estimates.heads & estimates.heads[less]).any(axis=1)
            near[sorted(tried)] = True
            near[less] = False
            fits &= near
        found += [(less, int(unit)) for unit in np.flatnonzero(fits) if int(unit) in pool]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _changed(chosen: Indices, change: Iterable[int]) -> Indices:
    less, more = (int(unit) for unit in change)
    return (chosen - {less}) | ({more} - {-1})
