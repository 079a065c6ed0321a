"""What an edit changed on a benchmark: base and edited scores of the same documents, paired.

Two scores on the same documents rise and fall together, so their difference is known far better
than two separate standard errors suggest. A loss or gain is called one only where both the test and
the interval say so. Otherwise no loss is *shown*, which is not the same as none, and where the
interval is too wide to have shown one that matters, the comparison is inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from evals.benchmarks.scores import Scores
from evals.evaluation.report import Conclusion, Metric
from evals.statistics import RESAMPLES, SEED, Interval, mcnemar, paired_difference
from surgery.errors import MeasurementError

ALPHA = 0.05
RESOLUTION = 0.02
"""Widest interval that is conclusive: 2 points of a share, 2 % of a score above 1 (a perplexity),
0.02 nats of a loss, which are 2 % of its perplexity."""
FEWEST = 30
"""Documents from which an interval by resampling is trusted: of few it is too narrow, of one it is
a point. Bonett and Price's is honest for any number."""
RELATIVE = ("perplexity", "weighted_perplexity")
"""Aggregations on a scale of ratios: a rise from 10 to 11 is as bad as one from 100 to 110."""

Values = npt.NDArray[np.float64]


def compare_scores(base: Scores, edited: Scores, gate: float | None = None) -> Metric:
    """Base and edited on the same documents. Differences are edited minus base.

    `gate`: how much `Metric.drop` may be, where that is limited; an interval wider than that is
    inconclusive, or without a gate one wider than `RESOLUTION`.

    - Means of yes/no scores: exact McNemar test, Bonett and Price's interval.
    - Other means, perplexities: Wilcoxon's signed-rank test (Wilcoxon 1945; zeros as Pratt 1959)
      of the documents' scores, percentile bootstrap over documents, both models on one resample.
    - All other aggregations: the same bootstrap, and its two-sided p-value.

    Raises `MeasurementError` where the documents are not the same.
    """
    if base.documents != edited.documents:
        raise MeasurementError("base and edited model were asked different documents")
    n = len(base.values)
    before, after = _numbers(base), _numbers(edited)
    difference = edited.value - base.value
    test: Literal["mcnemar", "wilcoxon", "bootstrap"]
    if before is None or after is None:
        test = "bootstrap"
        drawn = _resampled(n, lambda rows: _aggregate(edited, rows) - _aggregate(base, rows))
        interval, p_value = _percentiles(drawn), _two_sided(drawn)
    elif base.aggregation == "mean" and np.isin([before, after], (0, 1)).all():
        only_base, only_edited = int((before > after).sum()), int((after > before).sum())
        test, p_value = "mcnemar", mcnemar(only_base, only_edited)
        interval = paired_difference(only_base, only_edited, n)
    else:
        test, p_value = "wilcoxon", wilcoxon(_each(before), _each(after))
        fast, first, second = _FAST[base.aggregation], before, after
        drawn = _resampled(n, lambda rows: fast(second[rows]) - fast(first[rows]))
        interval = _percentiles(drawn)
    if test == "bootstrap":
        p_value = max(p_value, 2.0 ** (1 - n))  # n signs can tell no more
    relative = base.aggregation in RELATIVE and not base.higher_is_better and base.value > 0
    drop = difference / base.value if relative else difference
    resolution = find_resolution(base.value, gate, relative=relative)
    outcome = outcome_of(interval, p_value, higher_is_better=base.higher_is_better)
    outcome = concluded(outcome, interval, resolution, n=n, resampled=test != "mcnemar")
    return Metric(
        base=base.value,
        edited=edited.value,
        difference=difference,
        ci95=(interval.low, interval.high),
        p_value=p_value,
        test=test,
        outcome=outcome,
        verdict=describe_outcome(outcome, interval, n),
        n=n,
        resolution=resolution,
        higher_is_better=base.higher_is_better,
        drop=-drop if base.higher_is_better else drop,
        drop_is_relative=relative,
    )


def find_resolution(base: float, gate: float | None = None, *, relative: bool = False) -> float:
    """The widest conclusive interval of a difference from `base`. `gate`: as in `compare_scores`.

    `relative`: whether the gate is on a share of the base.
    """
    if gate is None:
        return RESOLUTION * max(1.0, abs(base))
    return gate * base if relative else gate


def outcome_of(interval: Interval, p_value: float, *, higher_is_better: bool) -> Conclusion:
    """Loss or gain where p < 0.05 and the interval of the difference excludes 0, else none."""
    if p_value >= ALPHA or interval.low <= 0 <= interval.high:
        return "none"
    return "gain" if (interval.low > 0) == higher_is_better else "loss"


def concluded(
    outcome: Conclusion, interval: Interval, resolution: float, *, n: int, resampled: bool = True
) -> Conclusion:
    """`outcome`, but "inconclusive" for "none" where too little was measured to say so.

    That is an interval wider than `resolution`, or a `resampled` one of fewer than `FEWEST`
    documents. A loss or gain that is shown stays one however wide its interval is.
    """
    too_little = interval.high - interval.low > resolution or (resampled and n < FEWEST)
    return "inconclusive" if outcome == "none" and too_little else outcome


def describe_outcome(outcome: Conclusion, interval: Interval, n: int) -> str:
    """ "no loss shown", "inconclusive (n = 2)", "loss of 0.02 to 0.05", "gain of 0.01 to 0.04"."""
    if outcome == "inconclusive":
        return f"inconclusive (n = {n:,})"
    if outcome == "none":
        return "no loss shown"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{outcome} of {low:.3g} to {high:.3g}"


def wilcoxon(before: Values, after: Values) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test for paired scores [N]; 1 where all agree."""
    from scipy import stats

    differences = after - before
    if not np.any(differences):
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


_FAST: dict[str, Callable[[Values], float]] = {
    "mean": lambda values: float(values.mean()),
    "perplexity": lambda values: float(np.exp(-values.mean())),
    "weighted_perplexity": lambda values: float(np.exp(-_ratio(values))),
    "bits_per_byte": lambda values: float(-_ratio(values) / np.log(2)),
}
"""What lm-eval computes with Python's numbers, for thousands of resamples."""


def _numbers(scores: Scores) -> Values | None:
    """Values as [N] or, with weights, [N, 2]; None where documents are not scored one by one."""
    if scores.aggregation not in _FAST:
        return None
    try:
        values = np.asarray(scores.values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    wanted = 1 if scores.aggregation in ("mean", "perplexity") else 2
    return values if values.ndim == wanted and np.isfinite(values).all() else None


def _each(values: Values) -> Values:
    """One number a document: of weighted log likelihoods that for each unit of weight."""
    return values[:, 0] / np.maximum(values[:, 1], 1) if values.ndim == 2 else values


def _ratio(values: Values) -> float:
    total, weight = values.sum(axis=0)
    return float(total / weight)


def _resampled(n: int, difference: Callable[[npt.NDArray[np.int64]], float]) -> Values:
    """Differences on documents drawn with replacement, [RESAMPLES]."""
    rng = np.random.default_rng(SEED)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray([difference(rng.integers(n, size=n)) for _ in range(RESAMPLES)])


def _aggregate(scores: Scores, rows: npt.NDArray[np.int64]) -> float:
    return float(scores.aggregate([scores.values[row] for row in rows.tolist()]))


def _percentiles(drawn: Values) -> Interval:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high))


def _two_sided(drawn: Values) -> float:
    """Twice the smaller share of resamples on one side of 0, both ends counted in."""
    sides = ((drawn <= 0).sum(), (drawn >= 0).sum())
    return float(min(1.0, 2 * (1 + min(sides)) / (1 + len(drawn))))
