"""The sets of units that are expected to do most at the least cost."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from evals.search.estimates import Changes, Estimates, Expected, Floats, Indices

_EXCHANGED = 24  # units that are tried in place of one
_NEAREST = 200  # sets
_FEW = 1e-6  # a rate that is as good as none


def compose(estimates: Estimates, rate: float, pool: Indices) -> Indices:
    """The set that is expected to leave at most `rate`, at the least cost; greedily.

    It grows by the unit that lowers the rate most for its cost. Then units are added, taken out,
    and exchanged at the highest price that was paid, for as long as that makes the set better.
    """
    chosen, highest = Indices(), 0.0
    while True:
        before = estimates.expected(chosen)
        if before.rate[0] <= rate:
            break
        joining = _joining(estimates, chosen, pool)
        if not len(joining):
            break
        after = estimates.expected(chosen, joining)
        fall = _excess(before, rate) - _excess(after, rate)
        price = np.maximum(after.kl - before.kl, 1e-9) / np.maximum(fall, 1e-9)
        best = int(price.argmin())
        if fall[best] <= 0:
            break
        chosen, highest = chosen | {int(joining[best, 1])}, max(highest, float(price[best]))
    return _improve(estimates, chosen, pool, rate, highest)


def _improve(
    estimates: Estimates, chosen: Indices, pool: Indices, rate: float, price: float
) -> Indices:
    """Units added, taken out, and exchanged, for as long as that makes the set better."""
    best = value(estimates.expected(chosen), rate, price)[0]
    while True:
        joining = _joining(estimates, chosen, pool)
        values = value(estimates.expected(chosen, joining), rate, price)
        tried = joining[np.argsort(values, kind="stable")[:_EXCHANGED], 1]
        changes = np.concatenate([joining, _exchanges(estimates, chosen, pool, tried)])
        values = value(estimates.expected(chosen, changes), rate, price)
        if values.min(initial=np.inf) >= best - 1e-9:
            return chosen
        place = int(values.argmin())
        best, chosen = values[place], _changed(chosen, changes[place])


def value(expected: Expected, rate: float, price: float) -> Floats:
    """The cost in nats, and `price` nats for each factor of e that stays recovered above `rate`."""
    return expected.kl + price * _excess(expected, rate)


def _excess(expected: Expected, rate: float) -> Floats:
    return np.maximum(np.log((expected.rate + _FEW) / (rate + _FEW)), 0)


def neighbors(estimates: Estimates, chosen: Indices, rate: float, price: float) -> list[Indices]:
    """Sets with a unit more, less, or exchanged, best first."""
    found: dict[Indices, float] = {}
    for pool in estimates.pools:
        if chosen <= pool:
            parts = [_joining(estimates, chosen, pool), _exchanges(estimates, chosen, pool, pool)]
            changes = np.concatenate(parts)
            values = value(estimates.expected(chosen, changes), rate, price).tolist()
            found |= zip((_changed(chosen, change) for change in changes), values, strict=True)
    ordered = sorted(found, key=lambda one: (found[one], sorted(one)))
    return [one for one in ordered if one][:_NEAREST]


def _changed(chosen: Indices, change: Collection[int]) -> Indices:
    less, more = (int(unit) for unit in change)
    return chosen - {less} | ({more} if more >= 0 else set())


def _joining(estimates: Estimates, chosen: Indices, pool: Indices) -> Changes:
    fits = [unit for unit in np.flatnonzero(estimates.free(chosen)) if unit in pool]
    return np.array([(-1, unit) for unit in fits], dtype=np.int64).reshape(-1, 2)


def _exchanges(
    estimates: Estimates, chosen: Indices, pool: Indices, tried: Collection[int]
) -> Changes:
    """Each unit taken out, or exchanged for one of the same heads, or for one of `tried`."""
    found = []
    for less in sorted(chosen):
        fits = estimates.free(chosen - {less})
        fits[less] = False
        near = (estimates.heads & estimates.heads[less]).any(axis=1)
        near[sorted(tried)] = True
        found += [(less, -1)]
        found += [(less, int(unit)) for unit in np.flatnonzero(fits & near) if int(unit) in pool]
    return np.array(found, dtype=np.int64).reshape(-1, 2)
