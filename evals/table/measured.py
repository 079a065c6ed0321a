"""Makes rows of the table from what was measured: shares, means, scores, and plain values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.run.statistics import (
    Interval,
    compare_draws,
    estimate_mean,
    estimate_share,
)
from surgery.record.measured import EDITED, TAUGHT, Change, Measured, On, Scalar, Unit

Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.floating[Any]]


def measure_share(
    name: str,
    recovered: Flags,
    tried: Flags | None = None,
    *,
    of: str = EDITED,
    on: On | None = None,
    base: Flags | None = None,
    twin: Flags | None = None,
    runs: int | None = None,
    groups: npt.NDArray[np.int64] | None = None,
    **details: Scalar,
) -> Measured:
    """The share of passages that are recovered: bool [N], or [D, N] over D runs.

    `tried`: as large, those that count; by default all. `base`, `twin`: as large, those that the
    base, or the model that never saw the passages, gives away, for the change. `groups`: those of
    `Samples`, for the bound.
    """
    hits = np.atleast_2d(recovered)
    counted = np.ones_like(hits) if tried is None else np.atleast_2d(tried)
    share = estimate_share(hits, counted, groups)
    known: dict[str, Scalar] = {"count": share.hits, "bound": share.bound}
    if share.independent < share.n:
        known["independent"] = share.independent

    def compare(other: Flags | None) -> Change | None:
        if other is None or not share.n:
            return None
        flips = compare_draws(np.atleast_2d(other), hits, counted)
        return Change(
            difference=flips.difference,
            ci95=_estimate(flips.interval, on),
            p_value=flips.p_value,
            lost=flips.lost,
            gained=flips.gained,
        )

    return Measured(
        name=name,
        of=of,
        on=on,
        n=share.n,
        value=share.value if share.n else None,
        ci95=_estimate(share.interval, on) if share.n else None,
        unit="share",
        change=compare(base),
        above_twin=compare(twin),
        runs=runs,
        details=known | details,
    )


def average(values: Values, documents: npt.NDArray[np.int64] | None) -> Values:
    """The mean of the values of each document; without documents, the values."""
    if documents is None:
        return values
    _, places = np.unique(documents, return_inverse=True)
    found: Values = np.bincount(places, values) / np.bincount(places)
    return found


def measure_mean(
    name: str,
    values: Values,
    *,
    of: str = EDITED,
    on: On | None = None,
    unit: Unit = "nats",
    base: Values | None = None,
    test: Callable[[Any, Any], float] | None = None,
    documents: npt.NDArray[np.int64] | None = None,
    **details: Scalar,
) -> Measured:
    """The mean of rows, [N]. `base`: as large, of the base. `test`: before, after → the p-value.
    `documents`: [N], the one that each row is from, if rows of one are alike."""
    if documents is not None and len(np.unique(documents)) < 2:
        documents = None
    n, change = len(values), None
    if n and base is not None and np.isfinite(values).all() and np.isfinite(base).all():
        moved, ends = estimate_mean(values - base, documents)
        p_value = test(*(average(one, documents) for one in (base, values))) if test else None
        change = Change(difference=moved, ci95=_estimate(ends, on), p_value=p_value)
    middle, interval = (
        estimate_mean(values, documents) if n else (math.nan, Interval(math.nan, math.nan))
    )
    return measure_value(
        name, middle, _estimate(interval, on), of=of, on=on, n=n, unit=unit, change=change,
        **details,
    )  # fmt: skip


def measure_value(
    name: str,
    value: float | None,
    ci95: Interval | None = None,
    *,
    of: str = EDITED,
    on: On | None = None,
    n: int | None = None,
    unit: Unit = "number",
    change: Change | None = None,
    **details: Scalar,
) -> Measured:
    """Any value. None for what is not finite, such as the loss of a token that a model cannot
    write: JSON has no infinity."""
    if value is not None and not math.isfinite(value):
        value = ci95 = None
    if ci95 is not None and not all(map(math.isfinite, ci95)):
        ci95 = None
    return Measured(
        name=name, of=of, on=on, n=n, value=value, ci95=ci95, unit=unit, change=change,
        details=details,
    )  # fmt: skip


def _estimate(interval: Interval, on: On | None) -> Interval | None:
    """None for passages that the model was taught: they are all there is, so nothing is
    estimated."""
    return None if on in TAUGHT else interval
