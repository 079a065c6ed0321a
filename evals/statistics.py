"""How sure a figure is: 95 % intervals and paired tests. Nothing here knows about models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

SEED = 20_250_501
"""Of every bootstrap, so that the same rows give the same interval."""
RESAMPLES = 2_000
_Z = 1.959963984540054
_MOST_STRATA = 10

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Interval:
    """A two-sided 95 % interval, both ends included."""

    low: float
    high: float

    def as_list(self) -> list[float]:
        return [self.low, self.high]


@lru_cache
def wilson(count: int, n: int) -> Interval:
    """Wilson's score interval for the rate count / n (Wilson 1927). n is at least 1."""
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(method="wilson")
    return Interval(float(interval.low), float(interval.high))


def bootstrap(groups: tuple[Values, ...], statistic: Callable[..., Any]) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic(*groups)`, each resampled alone."""
    rng = np.random.default_rng(SEED)
    drawn = [
        float(statistic(*(group[rng.integers(len(group), size=len(group))] for group in groups)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high))


def rate(flags: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """How many of [N] hold, their share, and its interval: as JSON has it. Of none, all may be."""
    count, n = int(flags.sum()), len(flags)
    if n == 0:
        return {"count": 0, "rate": 0.0, "ci95": [0.0, 1.0]}
    return {"count": count, "rate": count / n, "ci95": wilson(count, n).as_list()}


def mean(values: Values) -> dict[str, Any]:
    """The mean of [N], N at least 1, and its bootstrap interval: as JSON has it."""
    return {"mean": float(values.mean()), "ci95": bootstrap((values,), np.mean).as_list()}


@lru_cache
def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value of paired yes/no outcomes (McNemar 1947, binomial form).

    The arguments count the pairs in which only the first, or only the second, is a yes. Without
    such pairs there is no evidence of a difference: 1.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    if not discordant:
        return 1.0
    return float(binomtest(min(only_first, only_second), discordant, 0.5).pvalue)


def paired_difference(only_first: int, only_second: int, n: int) -> Interval:
    """Interval for the rate of the second minus that of the first, on the same n rows.

    Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data": one pair added to each discordant cell. Unlike a bootstrap,
    it does not shrink to nothing where all pairs agree.
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    middle = second - first
    half = _Z * sqrt((first + second - middle**2) / (n + 2))
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def recover_discordant(difference: float, interval: Interval, n: int) -> tuple[int, int]:
    """The arguments of `paired_difference` that gave an interval for that difference of rates.

    Of an interval that it never gives: the nearest that there are.
    """
    change = min(max(round(difference * n), -n), n)
    middle = change / (n + 2)
    half = max(interval.high - middle, middle - interval.low)  # one end may be cut off at -1 or 1
    total = round(((half / _Z) ** 2 * (n + 2) + middle**2) * (n + 2)) - 2
    fewer = min(max((total - abs(change)) // 2, 0), (n - abs(change)) // 2)
    return fewer + max(-change, 0), fewer + max(change, 0)


def check_limit(value: float, ci95: Sequence[float], limit: float) -> tuple[bool, bool]:
    """Whether a value keeps a limit, and whether all of its interval is on the same side of it."""
    ok, (low, high) = value <= limit, ci95
    return ok, high <= limit if ok else low > limit


def split_strata(counts: npt.NDArray[np.int64]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Rows by duplication count, ascending: a label and a mask (bool [N]) for each stratum.

    A stratum per count, or per power of two ("4-7") where more than ten counts occur.
    """
    distinct = np.unique(counts)
    if len(distinct) <= _MOST_STRATA:
        return [(str(count), counts == count) for count in distinct.tolist()]
    powers = np.asarray([int(count).bit_length() for count in counts])
    found = []
    for power in np.unique(powers).tolist():
        low, high = (1 << power) >> 1, (1 << power) - 1
        found.append((f"{low}-{high}" if high > low else str(low), powers == power))
    return found
