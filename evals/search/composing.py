"""Composes sets of units on estimates, changes them by one unit, and rates them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evals.search.estimates import Changes, Estimates, Expected, Floats, Indices

_FEW = 1e-6  # a rate that is as good as none
_LEAST = 1e-9  # a change that is none


def compose(estimates: Estimates, rate: float, pool: Indices) -> Indices:
    """Composes a set that should leave at most `rate` recovered, at little cost.

    Greedy: each step changes the unit that lowers the rate most for its cost.
    """
    chosen = Indices()
    while True:
        before, changes = estimates.predict(chosen), list_changes(estimates, chosen, pool)
        if before.rate[0] <= rate or not len(changes):
            return chosen
        after = estimates.predict(chosen, changes)
        fall = _measure_excess(before, rate) - _measure_excess(after, rate)
        price = np.maximum(after.kl - before.kl, _LEAST) / np.maximum(fall, _LEAST)
        best = int(price.argmin())
        if fall[best] <= _LEAST:
            return chosen
        chosen = apply_change(chosen, changes[best])


def rate_sets(expected: Expected, rate: float, price: float) -> Floats:
    """The cost in nats, plus `price` nats for each factor of e by which a set exceeds `rate`."""
    return np.asarray(expected.kl + price * _measure_excess(expected, rate))


def _measure_excess(expected: Expected, rate: float) -> Floats:
    return np.asarray(np.maximum(np.log((expected.rate + _FEW) / (rate + _FEW)), 0))


def list_changes(
    estimates: Estimates, chosen: Indices, pool: Indices, *, elsewhere: bool = False
) -> Changes:
    """Lists changes: a unit of `pool` joins, one leaves, or one replaces one of the same heads.

    With `elsewhere`, it may replace any.
    """
    found = []
    for less in (-1, *sorted(chosen)):
        fits = estimates.find_free(chosen - {less})
        if less >= 0:
            found.append((less, -1))
            fits[less] = False
            if not elsewhere:
                fits &= (estimates.heads & estimates.heads[less]).any(axis=1)
        found += [(less, int(unit)) for unit in np.flatnonzero(fits) if int(unit) in pool]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def apply_change(chosen: Indices, change: Iterable[int]) -> Indices:
    less, more = (int(unit) for unit in change)
    return (chosen - {less}) | ({more} - {-1})
