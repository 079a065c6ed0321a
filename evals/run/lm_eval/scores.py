"""The scores in a task's results, by metric and document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import MeasurementError


@dataclass(frozen=True)
class Scores:
    """One metric of one task on one model.

    - `values`: lm-eval's score of each document, in order. `aggregation` is the name of the
      function that makes one `value` of them. Scores are numbers for "mean", log-likelihoods for
      "perplexity", (log-likelihood, weight) for "weighted_perplexity" and "bits_per_byte", and
      anything for others, which only `aggregate` understands.
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
    """Metric → scores, in the order of the task's file; "metric,filter" for filtered answers.

    `run`: as `TaskRun`. `aggregates`: metric → what makes one value of all documents. Skips metrics
    without a finite number.
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
    """Chooses the first metric that is a mean and better when higher, or else the first."""
    means = (
        name
        for name, score in scores.items()
        if score.higher_is_better and score.aggregation == "mean"
    )
    return next(means, next(iter(scores)))
