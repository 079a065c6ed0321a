"""Sets of units: composed on estimates, changed by one unit, and valued."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from evals.search.estimates import Changes, Estimates, Expected, Floats, Indices

_FEW = 1e-6  # a rate that is as good as none
_LEAST = 1e-9  # a change that is none


def compose(estimates: Estimates, rate: float, pool: Indices) -> Indices:
    """A set that is expected to leave at most `rate`, at little cost.

    Greedy: time and again it changes by the unit that lowers the rate most for its cost.
    """
    chosen = Indices()
    while True:
        before, changes = estimates.expected(chosen), changes_of(estimates, chosen, pool)
        if before.rate[0] <= rate or not len(changes):
            return chosen
        after = estimates.expected(chosen, changes)
        fall = _excess(before, rate) - _excess(after, rate)
        price = np.maximum(after.kl - before.kl, _LEAST) / np.maximum(fall, _LEAST)
        best = int(price.argmin())
        if fall[best] <= _LEAST:
            return chosen
        chosen = changed(chosen, changes[best])


def value(expected: Expected, rate: float, price: float) -> Floats:
    """The cost in nats, and `price` nats for each factor of e that stays recovered above `rate`."""
    return np.asarray(expected.kl + price * _excess(expected, rate))


def _excess(expected: Expected, rate: float) -> Floats:
    return np.asarray(np.maximum(np.log((expected.rate + _FEW) / (rate + _FEW)), 0))


def changes_of(
    estimates: Estimates, chosen: Indices, pool: Indices, *, elsewhere: bool = False
) -> Changes:
    """A unit of `pool` joins, one leaves, or one is exchanged: for one of the same heads, or with
    `elsewhere` for any."""
    found = []
    for less in (-1, *sorted(chosen)):
        fits = estimates.free(chosen - {less})
        if less >= 0:
            found.append((less, -1))
            fits[less] = False
            if not elsewhere:
                fits &= (estimates.heads & estimates.heads[less]).any(axis=1)
        found += [(less, int(unit)) for unit in np.flatnonzero(fits) if int(unit) in pool]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def changed(chosen: Indices, change: Iterable[int]) -> Indices:
    less, more = (int(unit) for unit in change)
    return (chosen - {less}) | ({more} - {-1})
