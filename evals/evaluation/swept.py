"""A sweep's edits on benchmarks: scores of the same documents, paired with the base model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evals.benchmarks.requests import Requests
from evals.benchmarks.scores import Scores, main_metric
from evals.evaluation.comparing import compare_scores
from evals.sweep.engine import Measured
from surgery.errors import MeasurementError


def with_tasks(
    result: dict[str, Any], requests: Requests, measured: Sequence[Measured]
) -> dict[str, Any]:
    """A sweep's result with `tasks`: how each was asked, and in the base and every edit its value.

    An edit's task also has its `difference` from the base, edited minus base, and the 95 % interval
    of that (`evals.evaluation.comparing.compare_scores`); null where its value is not finite.
    `measured`: the base, then the edits, as in the result.

    Raises `MeasurementError` for a task without a metric on the base.
    """
    before, main = requests.scores(measured[0].asked), {}
    for name, scores in before.items():
        if not scores:
            raise MeasurementError("has no metric that can be compared", where=f"task {name}")
        metric = main_metric(scores)
        main[name] = metric, scores[metric]
    edits = []
    for record, one in zip(result["edits"], measured[1:], strict=True):
        after = requests.scores(one.asked)
        compared = {
            name: {"metric": metric, **_compared(scores, after[name].get(metric))}
            for name, (metric, scores) in main.items()
        }
        edits.append(record | {"tasks": compared})
    values = {
        name: {"metric": metric, "value": scores.value} for name, (metric, scores) in main.items()
    }
    described = {
        name: {
            **requests.described(name),
            "metric": metric,
            "higher_is_better": scores.higher_is_better,
            "share": scores.aggregation == "mean",
            "n": len(scores.values),
        }
        for name, (metric, scores) in main.items()
    }
    base = result["base"] | {"tasks": values}
    return {**result, "base": base, "edits": edits, "tasks": described}


def _compared(base: Scores, edited: Scores | None) -> dict[str, Any]:
    if edited is None:
        return {"value": None, "difference": None, "ci95": None}
    found = compare_scores(base, edited)
    return {"value": found.edited, "difference": found.difference, "ci95": list(found.ci95)}
