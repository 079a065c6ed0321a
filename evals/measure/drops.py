"""Limits on what benchmarks may lose: which task has which, and whether a result keeps it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from evals.measure.differences import Metric, compare_scores
from evals.measure.verdicts import check_limit
from evals.run.lm_eval.scores import Scores, choose_metric
from evals.run.statistics import FEWEST, scale_needed
from surgery.errors import MeasurementError, UnknownNameError
from surgery.record.report import Limit


def check_limited_tasks(limits: Mapping[str, float], tasks: Collection[str]) -> None:
    """Raises `UnknownNameError` if a limit names none of `tasks`."""
    for pattern in limits:
        if not any(fnmatchcase(task, pattern) for task in tasks):
            run = ", ".join(tasks) or "none"
            raise UnknownNameError(
                f"no task of this run matches {pattern!r} (tasks: {run})",
                where="`max_drop`",
                fix="add it to `tasks`, or correct the name",
            )


def find_limit(limits: Mapping[str, float], task: str) -> float | None:
    """The limit on a task: that of its name, or else of the longest pattern that matches it."""
    covering = [pattern for pattern in limits if fnmatchcase(task, pattern)]
    exact = max(covering, key=lambda one: (not set("*?[") & set(one), len(one)), default=None)
    return None if exact is None else limits[exact]


def name_drop(task: str) -> str:
    """The name of the limit on a task."""
    return f"max-drop {task}"


def check_drop(name: str, task: Metric, limit: float, unclear: str | None = None) -> Limit:
    """The limit on one task. An inconclusive difference decides it only if it exceeds the limit.

    So does an interval that was resampled from fewer than `FEWEST` documents. `unclear`: as for
    `check_share`. The two-sided interval decides, which is stricter than the one-sided bound of
    shares.
    """
    (low, high), n, resampled = task.drop_ci95, task.n, task.test != "mcnemar"
    needed = None
    if limit > max(task.drop, 0):  # as narrow as the way to the limit, and as conclusive
        times = max((high - task.drop) / (limit - task.drop), (high - low) / limit)
        needed = scale_needed(n, times)
    if needed is not None and resampled:
        needed = max(needed, FEWEST)
    lacks = f"{n:,} documents leave an interval of {low:.3g} to {high:.3g}"
    if needed is not None:
        lacks += f": about {needed:,} would decide it"
    if unclear is not None:
        needed, lacks = None, unclear
    return check_limit(
        name_drop(name),
        f"{'relative rise' if task.drop_is_relative else 'drop'} of {name}",
        limit,
        task.drop,
        (low, high),
        n,
        needed=needed,
        lacks=lacks,
        enough=unclear is None
        and task.outcome != "inconclusive"
        and not (resampled and n < FEWEST),
    )


def choose_shared(
    name: str, base: Mapping[str, Scores], edited: Mapping[str, Scores]
) -> tuple[str, dict[str, Scores]]:
    """The metric of a task that limits are for, and the base's scores of all that both have."""
    shared = {key: score for key, score in base.items() if key in edited}
    if not shared:
        raise MeasurementError("has no metric in common for both models", where=f"task {name}")
    return choose_metric(shared), shared


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


def check_half(
    name: str, base: Mapping[str, Scores], edited: Mapping[str, Scores], limit: float, half: int
) -> Limit:
    """The limit on a task, on a half of its documents."""
    main, _ = choose_shared(name, base, edited)
    before, after = (halve_scores(scores[main], half) for scores in (base, edited))
    return check_drop(name, compare_scores(before, after, limit), limit)
