"""What an edit changed on a benchmark: base and edited scores of the same documents, paired.

Two scores on the same documents rise and fall together, so their difference is known much better
than two separate standard errors suggest. A comparison reports a loss or gain only if both the test
and the interval show one. Otherwise it shows no loss, which does not prove that there is none. If
the interval is so wide that it could hide a loss that matters, the comparison is inconclusive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evals.run.lm_eval.scores import Scores, choose_metric
from evals.run.statistics import (
    FEWEST,
    Interval,
    compare_flags,
    cut_percentiles,
    measure_chance,
    resample,
)
from evals.table.measured import measure_mean, measure_value
from surgery.errors import MeasurementError
from surgery.record.measured import BASE, Change, Measured, On

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


_DIFFERENT = "the base and the edited model answered different documents"
_AGAIN = "measure both again, with one version of the task and one `limit`"


def compare_scores(
    name: str, base: Scores, edited: Scores, limit: float | None = None, of: str = "edited"
) -> tuple[Measured, Measured]:
    """A metric of base and edited model on the same documents, with the change.

    `limit`: on what it loses, if there is one. An interval wider than the limit (without one: wider
    than `RESOLUTION`) is inconclusive.

    - Means of yes/no scores: exact McNemar test, Bonett and Price's interval.
    - Other means, perplexities: Wilcoxon's signed-rank test (Wilcoxon 1945; zeros as Pratt 1959)
      of the documents' scores, percentile bootstrap over documents, both models on one resample.
    - All other aggregations: the same bootstrap, and its two-sided p-value.

    Details: `test`, `outcome`, `resolution`, and `verdict`; `drop`, what it loses (above 0 is
    worse), with its interval, `drop_low` to `drop_high`. Of a perplexity, they are relative.

    Raises `MeasurementError` if the documents differ.
    """
    if base.documents != edited.documents:
        raise MeasurementError(_DIFFERENT, fix=_AGAIN)
    n, change, test = len(base.values), *_compare_values(base, edited)
    relative = base.aggregation in RELATIVE and not base.higher_is_better and base.value > 0
    unit = base.value if relative else 1.0
    resolution = RESOLUTION * max(1.0, abs(base.value)) if limit is None else limit * unit
    interval, higher = Interval(*(change.ci95 or ())), base.higher_is_better
    known = _conclude(
        interval, change.p_value or 0.0, resolution, n,
        higher_is_better=higher, resampled=test != "mcnemar",
    )  # fmt: skip
    moved = round(change.difference / unit, _DIGITS) if relative else change.difference
    low, high = (end / unit for end in interval)
    drops = (-moved, -high, -low) if higher else (moved, low, high)
    known |= dict(zip(("drop", "drop_low", "drop_high"), drops, strict=True))
    known |= {"test": test, "drop_is_relative": relative}
    return (
        measure_value(name, base.value, of=BASE, n=n),
        measure_value(name, edited.value, of=of, n=n, change=change, **known),
    )


def _compare_values(base: Scores, edited: Scores) -> tuple[Change, str]:
    """Edited minus base, and the test that was made."""
    n, rows = len(base.values), (np.arange(len(base.values)),)
    before, after = _parse_numbers(base), _parse_numbers(edited)
    if before is None or after is None:
        test = "bootstrap"
        drawn = resample(rows, lambda some: _aggregate(edited, some) - _aggregate(base, some))
        p_value = max(measure_chance(drawn), 2.0 ** (1 - n))  # n signs can show no more
        interval = cut_percentiles(drawn)
    elif base.aggregation == "mean" and np.isin([before, after], (0, 1)).all():
        flips = compare_flags(before > 0, after > 0)
        test, p_value, interval = "mcnemar", flips.p_value, flips.interval
    else:
        test, p_value = "wilcoxon", wilcoxon(_score_each(before), _score_each(after))
        fast, first, second = _FAST[base.aggregation], before, after
        drawn = resample(rows, lambda some: fast(second[some]) - fast(first[some]))
        interval = cut_percentiles(drawn)
    difference = round(edited.value - base.value, _DIGITS)
    return Change(difference=difference, ci95=interval, p_value=p_value), test


def compare_losses(
    name: str, before: Values | None, after: Values, on: On, of: str, **known: Any
) -> list[Measured]:
    """The loss of windows of held-out text, [M], in nats per token, of the base, if there is one,
    and of an edited model, with the change; lower is better. `known`: details, and the `documents`
    that windows are from."""
    if before is None:
        return [measure_mean(name, after, of=of, on=on, **known)]
    row = measure_mean(name, after, of=of, on=on, base=before, test=wilcoxon, **known)
    if (rise := row.change) is not None and rise.ci95 is not None:
        found = _conclude(Interval(*rise.ci95), rise.p_value or 0.0, RESOLUTION, len(after))
        more = {**row.details, **found, "test": "wilcoxon"}
        row = row.model_copy(update={"details": more})
    return [measure_mean(name, before, of=BASE, on=on, **known), row]


def compare_task(
    name: str,
    base: Mapping[str, Scores],
    edited: Mapping[str, Scores],
    limit: float | None = None,
    of: str = "edited",
) -> list[Measured]:
    """The figures of all metrics that both models have, the task's main one first.

    `limit`: on the main metric.
    """
    shared = {key: score for key, score in base.items() if key in edited}
    if not shared:
        raise MeasurementError("has no metric in common for both models", where=f"task {name}")
    main, rows = choose_metric(shared), list[Measured]()
    for key in sorted(shared, key=lambda key: key != main):
        named = f"task.{name}" if key == main else f"task.{name} {key}"
        most = limit if key == main else None
        rows += compare_scores(named, shared[key], edited[key], most, of)
    return rows


def halve_scores(scores: Scores, half: int) -> Scores:
    """The scores of every other document: the first half chooses, the second is held back.

    Raises `MeasurementError` for a single document.
    """
    values = scores.values[half::2]
    if not len(values):
        raise MeasurementError(
            "a limit on a benchmark needs a document to choose on, and one to hold back",
            expected="at least 2 documents",
            got=len(scores.values),
            fix="give a larger `limit`",
        )
    return replace(
        scores,
        values=values,
        documents=scores.documents[half::2],
        value=float(scores.aggregate(values)),
    )


def hash_documents(scores: Scores) -> str:
    """SHA-256 of the documents in order, as records hold it."""
    return hashlib.sha256("\n".join(scores.documents).encode()).hexdigest()


def _conclude(
    interval: Interval, p_value: float, resolution: float, n: int, **more: bool
) -> dict[str, Any]:
    """What a comparison shows, for programs and in words."""
    outcome = draw_conclusion(interval, p_value, resolution, n, **more)
    said = describe_outcome(outcome, interval, n)
    return {"outcome": outcome, "resolution": resolution, "verdict": said}


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
