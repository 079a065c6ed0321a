"""What an edit changed on a benchmark: base and edited scores of the same documents, paired.

Two scores on the same documents rise and fall together, so their difference is known much better
than two separate standard errors suggest. A comparison reports a loss or gain only if both the test
and the interval show one. Otherwise it shows no loss, which does not prove that there is none. If
the interval is so wide that it could hide a loss that matters, the comparison is inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from evals.measure.memorization.summary import ControlLoss
from evals.run.lm_eval.scores import Scores
from evals.run.statistics import (
    FEWEST,
    Interval,
    compare_flags,
    cut_percentiles,
    mean,
    measure_chance,
    resample,
)
from surgery.errors import MeasurementError
from surgery.record.manifest import Record, Word

ALPHA = 0.05
RESOLUTION = 0.02
"""The widest conclusive interval: 2 points of a share, 2 % of a score above 1 (a perplexity), or
0.02 nats of a loss (2 % of its perplexity)."""
RELATIVE = ("perplexity", "weighted_perplexity")
"""Aggregations whose ratios matter: a rise from 10 to 11 is as bad as one from 100 to 110."""

_DIGITS = 12
"""Of a difference, so that one which equals a limit keeps it: 0.8 - 0.75 is 0.05."""

Values = npt.NDArray[np.float64]
Conclusion = Literal["loss", "gain", "none", "inconclusive"]


class Metric(Record):
    """One metric of one task, for base and edited on the same documents.

    `resolution`: the widest `ci95` that is still conclusive when no difference shows.
    """

    base: float
    edited: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    test: Literal["mcnemar", "wilcoxon", "bootstrap"]
    outcome: Conclusion
    verdict: str
    n: int
    resolution: float
    higher_is_better: bool
    drop: float
    drop_is_relative: bool

    @property
    def drop_ci95(self) -> tuple[float, float]:
        """The interval of `drop`."""
        unit = self.base if self.drop_is_relative else 1.0
        low, high = (end / unit for end in self.ci95)
        return (-high, -low) if self.higher_is_better else (low, high)


class Mean(Record):
    mean: float
    ci95: tuple[float, float]


class MeanDifference(Mean):
    p_value: float
    test: Word


class HeldOut(Record):
    """Loss on text that no model was trained on, in nats per token; lower is better."""

    kind: Word
    n: int
    base: Mean
    edited: Mean
    difference: MeanDifference
    resolution: float
    outcome: Conclusion
    verdict: str


_DIFFERENT = "the base and the edited model answered different documents"
_AGAIN = "measure both again, with one version of the task and one `limit`"


def compare_scores(base: Scores, edited: Scores, gate: float | None = None) -> Metric:
    """Compares base and edited scores of the same documents. Differences are edited minus base.

    `gate`: the limit on `Metric.drop`, if there is one. An interval wider than the gate (without a
    gate: wider than `RESOLUTION`) is inconclusive.

    - Means of yes/no scores: exact McNemar test, Bonett and Price's interval.
    - Other means, perplexities: Wilcoxon's signed-rank test (Wilcoxon 1945; zeros as Pratt 1959)
      of the documents' scores, percentile bootstrap over documents, both models on one resample.
    - All other aggregations: the same bootstrap, and its two-sided p-value.

    Raises `MeasurementError` if the documents differ.
    """
    if base.documents != edited.documents:
        raise MeasurementError(_DIFFERENT, fix=_AGAIN)
    n = len(base.values)
    rows = (np.arange(n),)
    before, after = _parse_numbers(base), _parse_numbers(edited)
    difference = round(edited.value - base.value, _DIGITS)
    test: Literal["mcnemar", "wilcoxon", "bootstrap"]
    if before is None or after is None:
        test = "bootstrap"
        drawn = resample(rows, lambda some: _aggregate(edited, some) - _aggregate(base, some))
        p_value = max(measure_chance(drawn), 2.0 ** (1 - n))  # n signs can show no more
        interval = cut_percentiles(drawn)
    elif base.aggregation == "mean" and np.isin([before, after], (0, 1)).all():
        flips = compare_flags(before > 0, after > 0)
        test, p_value, interval = "mcnemar", flips.p_value, Interval(*flips.ci95)
    else:
        test, p_value = "wilcoxon", wilcoxon(_score_each(before), _score_each(after))
        fast, first, second = _FAST[base.aggregation], before, after
        drawn = resample(rows, lambda some: fast(second[some]) - fast(first[some]))
        interval = cut_percentiles(drawn)
    relative = base.aggregation in RELATIVE and not base.higher_is_better and base.value > 0
    drop = round(difference / base.value, _DIGITS) if relative else difference
    resolution = RESOLUTION * max(1.0, abs(base.value))
    if gate is not None:
        resolution = gate * base.value if relative else gate
    higher, resampled = base.higher_is_better, test != "mcnemar"
    outcome = draw_conclusion(
        interval, p_value, resolution, n, higher_is_better=higher, resampled=resampled
    )
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
        higher_is_better=higher,
        drop=-drop if higher else drop,
        drop_is_relative=relative,
    )


def compare_heldout(before: ControlLoss | None, after: ControlLoss | None) -> HeldOut | None:
    """Compares the loss of the same windows under both models; None if there are none."""
    if before is None or after is None:
        return None
    rise = after.nll - before.nll
    change, p_value, n = mean(rise), wilcoxon(before.nll, after.nll), len(rise)
    interval = Interval(*change["ci95"])
    outcome = draw_conclusion(interval, p_value, RESOLUTION, n)
    return HeldOut(
        kind=before.kind,
        n=n,
        base=Mean(**mean(before.nll)),
        edited=Mean(**mean(after.nll)),
        difference=MeanDifference(**change, p_value=p_value, test="wilcoxon"),
        resolution=RESOLUTION,
        outcome=outcome,
        verdict=describe_outcome(outcome, interval, n),
    )


def draw_conclusion(
    interval: Interval,
    p_value: float,
    resolution: float,
    n: int,
    *,
    higher_is_better: bool = False,
    resampled: bool = True,
) -> Conclusion:
    """Loss or gain if p < 0.05 and the interval of the difference excludes 0, however wide it is.

    Otherwise "none", or "inconclusive" if the interval is wider than `resolution`, or if it was
    `resampled` from fewer than `FEWEST` documents.
    """
    if p_value < ALPHA and not interval.low <= 0 <= interval.high:
        return "gain" if (interval.low > 0) == higher_is_better else "loss"
    too_few = resampled and n < FEWEST
    return "inconclusive" if too_few or interval.high - interval.low > resolution else "none"


def describe_outcome(outcome: Conclusion, interval: Interval, n: int) -> str:
    """ "no loss shown", "inconclusive (n = 2)", "loss of 0.02 to 0.05", "gain of 0.01 to 0.04"."""
    if outcome == "inconclusive":
        return f"inconclusive (n = {n:,})"
    if outcome == "none":
        return "no loss shown"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    return f"{outcome} of {low:.3g} to {high:.3g}"


def wilcoxon(before: Values, after: Values) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test for paired scores [N]; 1 if all agree."""
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
"""lm-eval's aggregations, fast enough for thousands of resamples."""


def _parse_numbers(scores: Scores) -> Values | None:
    """Values as [N] or, with weights, [N, 2]; None if documents have no scores of their own."""
    if scores.aggregation not in _FAST:
        return None
    try:
        values = np.asarray(scores.values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    wanted = 1 if scores.aggregation in ("mean", "perplexity") else 2
    return values if values.ndim == wanted and np.isfinite(values).all() else None


def _score_each(values: Values) -> Values:
    """One number per document; weighted log-likelihoods are divided by their weight."""
    return values[:, 0] / np.maximum(values[:, 1], 1) if values.ndim == 2 else values


def _ratio(values: Values) -> float:
    total, weight = values.sum(axis=0)
    return float(total / weight)


def _aggregate(scores: Scores, rows: npt.NDArray[np.int64]) -> float:
    return float(scores.aggregate([scores.values[row] for row in rows.tolist()]))
