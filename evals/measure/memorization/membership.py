"""Tells what was trained on from what was not, by the loss of the suffix given its prefix.

That is one score, from the same pass as the measures: of several, the most extreme one would tell
members from others by luck (Yeom et al. 2018, Privacy Risk in Machine Learning).
"""

from __future__ import annotations

import math

import numpy as np

from evals.measure.memorization.measures import Flags, Scores
from evals.run.statistics import FEWEST, Interval, cut_percentiles, resample, widen, wilson
from evals.table.measured import measure_value
from surgery.record.measured import Measured, On

SCORE = "membership.loss"
"""The name of its figure. Higher scores, which are lower losses, look more like training text."""
SOURCE = "Yeom et al. 2018, Privacy Risk in Machine Learning"
OVERCORRECTED = 0.4
"""Below this AUC, with its interval below 0.5, a model reveals members by avoiding them."""


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
