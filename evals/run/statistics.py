"""95 % intervals, one-sided bounds, and paired tests. Nothing here knows about models."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import ceil, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

SEED = 20_250_501
"""Every bootstrap starts from it, so the same rows give the same interval."""
RESAMPLES = 2_000
FEWEST = 30
"""The fewest rows for which a resampled interval counts. With few rows it is too narrow, with one
it is a point. Bonett and Price's interval holds for any number."""
_Z = 1.959963984540054
CONFIDENCE = 0.95
"""Of a claim that something is at most so much. It is one-sided."""
_MOST_ROWS = 2**50
_MOST_STRATA = 10
_DRAWN_AT_ONCE = 2**15
"""Rows of resamples in memory at a time, so that they stay in a processor's cache."""

Values = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """A two-sided 95 % interval that includes both ends."""

    low: float
    high: float


@lru_cache
def wilson(count: int, n: int) -> Interval:
    """Wilson's score interval for the rate count / n (Wilson 1927). n is at least 1."""
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(method="wilson")
    return Interval(float(interval.low), float(interval.high))


@lru_cache
def bound_share(count: float, n: int) -> float:
    """The most that a share may be, with 95 % confidence, of which `count` of `n` rows were seen.

    The exact one-sided bound (Clopper and Pearson 1934). n is at least 1. A `count` that is not
    whole, as in a mean of draws, gives a number between those of its neighbors.
    """
    from scipy.special import betaincinv

    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, CONFIDENCE))


def count_needed(limit: float, rate: float = 0.0) -> int | None:
    """The fewest rows, the share `rate` of them a yes, for which `bound_share` is `limit` at most.

    None if no number is. The bound falls with the number of rows.
    """
    if rate >= limit:
        return None
    few, many = 0, 1
    while bound_share(rate * many, many) > limit:
        few, many = many, 2 * many
        if many > _MOST_ROWS:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        if bound_share(rate * middle, middle) > limit:
            few = middle
        else:
            many = middle
    return many


def scale_needed(n: int, times: float) -> int | None:
    """About how many rows give an interval so many times as narrow as that of `n` rows.

    Its width falls with the square root of n. None if no number does.
    """
    rows = n * times * times
    return ceil(rows) if isfinite(rows) else None


def bootstrap(groups: tuple[npt.NDArray[Any], ...], statistic: Callable[..., Any]) -> Interval:
    """Percentile bootstrap interval (Efron 1979) of `statistic(*groups)`."""
    return cut_percentiles(resample(groups, statistic))


def resample(
    groups: tuple[npt.NDArray[Any], ...], statistic: Callable[..., Any]
) -> npt.NDArray[np.float64]:
    """`statistic(*groups)` of `RESAMPLES` resamples, [RESAMPLES]. Each group is drawn alone."""
    rng = np.random.default_rng(SEED)
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = [
            statistic(*(group[rng.integers(len(group), size=len(group))] for group in groups))
            for _ in range(RESAMPLES)
        ]
    return np.asarray(drawn, dtype=np.float64)


def resample_mean(
    values: Values, documents: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.float64]:
    """`resample((values,), np.mean)`, to the bit, but many resamples at a time.

    `documents`: [N], the one that each value is from, two or more: then documents are drawn, as
    values of one are alike.
    """
    if documents is not None:
        _, places = np.unique(documents, return_inverse=True)
        pairs = np.stack([np.bincount(places, values), np.bincount(places)], axis=1)
        return resample((pairs,), lambda some: some[:, 0].sum() / some[:, 1].sum())
    rng, n = np.random.default_rng(SEED), len(values)
    at_once = max(1, _DRAWN_AT_ONCE // n)
    sizes = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    with np.errstate(over="ignore", invalid="ignore"):
        drawn = [values[rng.integers(n, size=(size, n))].mean(axis=1) for size in sizes]
    return np.concatenate(drawn).astype(np.float64)


def cut_percentiles(drawn: Values) -> Interval:
    """The interval that holds the middle 95 % of resampled values."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high))


def measure_chance(drawn: Values) -> float:
    """Two-sided p-value of resampled differences: how often they are on one side of 0, or on it."""
    fewer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (1 + fewer) / (1 + len(drawn))))


class Share(NamedTuple):
    """The share of `n` rows that are hits. `hits`: those in at least one draw; `value`: the mean
    share of the draws; `bound`: the most that it may be, with 95 % confidence (one-sided);
    `independent`: of how many rows, or groups of them, that speaks."""

    n: int
    hits: int
    value: float
    interval: Interval
    bound: float
    independent: int


def estimate_share(
    hits: Flags, counted: Flags | None = None, groups: npt.NDArray[np.int64] | None = None
) -> Share:
    """The share of rows that are hits, in the mean of D draws: bool [D, N], or [N].

    `counted`: as large, the rows that count; by default all. Of none, the interval is 0 to 1.
    Interval and bound cover draws and rows, and never claim more than those of one draw. The mean
    is exact, as it may equal a limit. `groups`: [N], a number for the rows that tell of each other.
    The bound is then of groups, each a hit if any of its rows is.
    """
    hits = np.atleast_2d(hits)
    counted = np.ones_like(hits) if counted is None else np.atleast_2d(counted)
    hits, n = hits & counted, int(counted.any(axis=0).sum())
    if groups is not None and n:
        alone = estimate_share(hits, counted)
        joined = estimate_share(join_rows(hits, groups), join_rows(counted, groups))
        return alone._replace(bound=joined.bound, independent=joined.independent)
    if n == 0:
        return Share(0, 0, 0.0, Interval(0.0, 1.0), 1.0, 0)
    if len(hits) == 1:
        return estimate_count(int(hits.sum()), n)
    numbers, found = (flags.sum(axis=1).tolist() for flags in (counted, hits))
    shares = [Fraction(some, of) for some, of in zip(found, numbers, strict=True) if of]
    middle, each = float(sum(shares) / len(shares)), max(1, round(sum(numbers) / len(numbers)))
    most = math.ceil(middle * each - 1e-9)  # never fewer than were hit: none would support more
    drawn = _resample_draws(lambda some: _mean_rate(hits[some], counted[some]), hits)
    bound = max(bound_share(most, each), float(np.percentile(drawn, 100 * CONFIDENCE)))
    found, interval = int(hits.any(axis=0).sum()), widen(wilson(most, each), drawn)
    return Share(n, found, middle, interval, bound, n)


def join_rows(flags: Flags, groups: npt.NDArray[np.int64]) -> Flags:
    """Whether any row of a group is flagged: bool [D, N] → [D, G]."""
    numbers, places = np.unique(groups, return_inverse=True)
    joined = np.zeros((len(flags), len(numbers)), dtype=np.bool_)
    for draw, own in enumerate(flags):
        joined[draw, places[own]] = True
    return joined


def estimate_count(count: int, n: int) -> Share:
    """The share of `n` rows, at least one, of which `count` are hits."""
    return Share(n, count, count / n, wilson(count, n), bound_share(count, n), n)


def _mean_rate(hits: Flags, counted: Flags) -> float:
    """The mean rate of the draws that count any row; NaN if none does."""
    numbers = counted.sum(axis=1)
    some = numbers > 0
    return float((hits.sum(axis=1)[some] / numbers[some]).mean()) if some.any() else math.nan


def _resample_draws(statistic: Callable[[Any], float], rows: Flags) -> npt.NDArray[np.float64]:
    """`statistic`, of an index into [D, N], of resamples of draws and of rows; without those that
    count no row."""
    places = np.arange(rows.shape[0]), np.arange(rows.shape[1])
    drawn = resample(places, lambda draws, some: statistic(np.ix_(draws, some)))
    return drawn[~np.isnan(drawn)]


def widen(one: Interval, drawn: Values) -> Interval:
    """An interval of one draw, widened to the percentiles of resampled values."""
    both = cut_percentiles(drawn)
    return Interval(min(one.low, both.low), max(one.high, both.high))


def estimate_mean(
    values: Values, documents: npt.NDArray[np.int64] | None = None
) -> tuple[float, Interval]:
    """The mean of [N], N at least 1, and its bootstrap interval. `documents`: as for
    `resample_mean`."""
    return float(values.mean()), cut_percentiles(resample_mean(values, documents))


@lru_cache
def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value of paired yes/no outcomes (McNemar 1947, binomial form).

    The arguments count the pairs in which only the first, or only the second, is a yes. Without
    such pairs nothing points to a difference, and p is 1.
    """
    from scipy.stats import binomtest

    discordant = only_first + only_second
    if not discordant:
        return 1.0
    return float(binomtest(min(only_first, only_second), discordant, 0.5).pvalue)


def paired_difference(only_first: float, only_second: float, n: float) -> Interval:
    """Interval for the rate of the second minus that of the first, on the same n rows.

    Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data": one pair added to each discordant cell. Unlike a bootstrap,
    it does not shrink to nothing where all pairs agree.
    """
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    middle = second - first
    half = _Z * sqrt((first + second - middle**2) / (n + 2))
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


class Flips(NamedTuple):
    """A yes/no outcome of the same rows before and after: how many turned to no, and to yes.

    `difference`: the rate after minus the rate before; `p_value`: of McNemar's test, and over draws
    no lower than that of the resampled difference.
    """

    lost: int
    gained: int
    difference: float
    interval: Interval
    p_value: float


def compare_flags(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Flips:
    """Paired flags, bool [N] each; N may be 0."""
    lost, gained, n = int((before & ~after).sum()), int((after & ~before).sum()), len(after)
    interval = paired_difference(lost, gained, n)
    change = (gained - lost) / max(1, n)
    return Flips(lost, gained, change, interval, mcnemar(lost, gained))


def compare_draws(before: Flags, after: Flags, counted: Flags) -> Flips:
    """As `compare_flags`, in the mean of D draws that both sides share: bool [D, N] each.

    The interval and the p-value cover draws and rows. Neither claims more than those of one draw.
    """
    if len(after) == 1 or not counted.any():
        return compare_flags(before[counted], after[counted])
    lost, gained = (
        float((one & ~other & counted).sum() / len(counted))
        for one, other in ((before, after), (after, before))
    )
    each = float(counted.sum(axis=1).mean())

    def differ(some: Any) -> float:
        return _mean_rate(after[some] & counted[some], counted[some]) - _mean_rate(
            before[some] & counted[some], counted[some]
        )

    drawn = _resample_draws(differ, after)
    interval = widen(paired_difference(lost, gained, each), drawn)
    p_value = max(mcnemar(round(lost), round(gained)), measure_chance(drawn))
    change = differ(np.ix_(range(len(after)), range(after.shape[1])))
    return Flips(round(lost), round(gained), change, interval, p_value)


def split_strata(counts: npt.NDArray[np.int64]) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Groups rows by duplication count, ascending: a label and a mask (bool [N]) for each group.

    One group per count, or per power of two ("4-7") if there are more than ten counts.
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
