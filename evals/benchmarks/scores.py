"""What a task's results hold, metric by metric and document by document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import MeasurementError


@dataclass(frozen=True)
class Scores:
    """One metric of one task on one model.

    - `values`: what lm-eval keeps for each document, in order; what that is depends on
      `aggregation`, the name of what makes one `value` of them: a number for "mean", a log
      likelihood for "perplexity", (log likelihood, weight) for "weighted_perplexity" and
      "bits_per_byte", anything for others, which only `aggregate` understands.
    - `documents`: a hash of each document.
    """

    values: list[Any]
    documents: list[str]
    aggregation: str
    aggregate: Callable[[list[Any]], float]
    value: float
    higher_is_better: bool


def collect_scores(
    name: str, run: dict[str, Any], aggregates: Mapping[str, Callable[[list[Any]], float]]
) -> dict[str, Scores]:
    """Metric → scores, in the order of the task's file; "metric,filter" where answers are filtered.

    `run`: as `evals.benchmarks.running.TaskRun`. `aggregates`: metric → what makes one value of all
    documents. A metric that gives no finite number is left out; `MeasurementError` where none does.
    """
    found = {}
    for label in dict.fromkeys(sample["filter"] for sample in run["samples"]):
        for metric in run["aggregation"]:
            value = run["results"].get(f"{metric},{label}")
            samples = [
                sample
                for sample in run["samples"]
                if sample["filter"] == label and metric in sample["metrics"]
            ]
            if samples and isinstance(value, (int, float)) and math.isfinite(value):
                found[metric if label == "none" else f"{metric},{label}"] = Scores(
                    values=[sample[metric] for sample in samples],
                    documents=[sample["doc_hash"] for sample in samples],
                    aggregation=run["aggregation"][metric],
                    aggregate=aggregates[metric],
                    value=float(value),
                    higher_is_better=run["higher_is_better"].get(metric) is not False,
                )
    if not found:
        raise MeasurementError("has no metric that can be compared", where=f"task {name}")
    return found


def choose_metric(scores: Mapping[str, Scores]) -> str:
    """The first metric for which higher is better and which is a mean, or else the first."""
    means = (
        name
        for name, score in scores.items()
        if score.higher_is_better and score.aggregation == "mean"
    )
    return next(means, next(iter(scores)))
