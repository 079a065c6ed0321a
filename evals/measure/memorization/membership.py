"""Membership scores: how much a row looks like training text. Higher means more likely.

All scores cover the suffix given its prefix, and come from the same pass as the measures.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

from evals.data import NOTHING, measure_lengths
from evals.measure.memorization.measures import Flags, Floats, Ints, Measure, Scores, average
from evals.run.statistics import FEWEST, Interval, cut_percentiles, resample, widen, wilson
from evals.table.measured import measure_value
from surgery.record.measured import Measured, On

SHARE = 0.2
"""The share of least likely tokens that min-k averages, as in both papers' main results."""
OVERCORRECTED = 0.4
"""Below this AUC, with its interval below 0.5, a model reveals members by avoiding them."""


def loss_score(log_likelihood: Floats, suffix: Ints) -> Scores:
    """Mean log-likelihood per token, the negative loss. [N, S] -> [N]."""
    return average(log_likelihood, suffix)


def zlib_score(log_likelihood: Floats, suffix: Ints, texts: Sequence[str]) -> Scores:
    """Mean log-likelihood divided by the bits that zlib needs for the text. `texts`: N suffixes.

    The ratio of log-perplexity to zlib entropy, with the sign reversed. Returns [N].
    """
    bits = [8 * len(zlib.compress(text.encode())) for text in texts]
    return loss_score(log_likelihood, suffix) / np.asarray(bits, dtype=np.float64)


def min_k(log_likelihood: Floats, suffix: Ints) -> Scores:
    """Mean log-likelihood of the `SHARE` of tokens that are least likely, at least one. [N]"""
    return _mean_of_smallest(log_likelihood.astype(np.float64), suffix)


def min_k_plus_plus(
    log_likelihood: Floats, suffix: Ints, entropy: Floats, spread: Floats
) -> Scores:
    """Min-k of log-likelihoods that are standardized by the model's own distribution.

    (log p(x_t) − μ) / σ, where μ and σ are the mean and standard deviation of log p(v) under v ~ p,
    so μ = −entropy. If σ is 0, the distribution is certain and the term is 0. [N, S] -> [N].
    """
    distance = log_likelihood.astype(np.float64) + entropy
    certain = spread == 0
    values = np.where(certain, 0.0, distance / np.where(certain, 1, spread))
    return _mean_of_smallest(values, suffix)


def _mean_of_smallest(values: Scores, suffix: Ints) -> Scores:
    numbers = np.maximum(1, (SHARE * measure_lengths(suffix)).astype(np.int64))
    ordered = np.sort(np.where(suffix == NOTHING, np.inf, values), axis=1)
    smallest = np.arange(values.shape[1]) < numbers[:, None]
    return np.asarray(np.where(smallest, ordered, 0).sum(axis=1) / numbers)


SCORES = (
    Measure(
        "membership.loss",
        loss_score,
        source="Yeom et al. 2018, Privacy Risk in Machine Learning",
    ),
    Measure(
        "membership.min_k",
        min_k,
        source="Shi et al. 2024, Detecting Pretraining Data from Large Language Models",
    ),
    Measure(
        "membership.zlib",
        zlib_score,
        source="Carlini et al. 2021, Extracting Training Data from Large Language Models",
    ),
    Measure(
        "membership.min_k_plus_plus",
        min_k_plus_plus,
        source="Zhang et al. 2025, Min-K%++: Improved Baseline for Detecting Pre-Training Data "
        "from Large Language Models",
    ),
)


def measure_area(
    name: str, scores: Scores, members: Flags, of: str, on: On | None = None
) -> Measured:
    """The probability that a member scores higher than a non-member; ties count half.

    The Mann-Whitney statistic divided by the number of pairs (the area under the ROC curve), with a
    bootstrap interval over both groups. Of few rows, or where all pairs agree, a bootstrap claims
    too much; the interval is then never narrower than Wilson's of as many pairs as have no row in
    common (Hoeffding 1963, of which the statistic is a mean). `scores`: [N]; `members`: bool [N],
    with both kinds. `overcorrected`: members are *less* likely than text never seen, which also
    reveals them.
    """
    groups = scores[members], scores[~members]
    value, drawn = _area(*groups), resample(groups, _area)
    interval, pairs = cut_percentiles(drawn), min(map(len, groups))
    if pairs < FEWEST or value in (0, 1):
        least, most = math.floor(value * pairs + 1e-9), math.ceil(value * pairs - 1e-9)
        interval = widen(Interval(wilson(least, pairs).low, wilson(most, pairs).high), drawn)
    overcorrected = value < OVERCORRECTED and interval.high < 0.5
    n = int(members.sum())
    return measure_value(name, value, interval, of=of, on=on, n=n, overcorrected=overcorrected)


def _area(inside: Scores, outside: Scores) -> float:
    order = np.sort(outside)
    below = np.searchsorted(order, inside, side="left")
    not_above = np.searchsorted(order, inside, side="right")
    return float((below + not_above).mean() / (2 * len(order)))
