"""Compares two runs of lm-eval, by anyone, from the folders that lm-eval wrote.

The scores of documents decide. What a log says of all documents together must follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from evals.run.console import say
from surgery.errors import MeasurementError, SourceError
from surgery.record.measured import Measured
from surgery.untrusted import parse_json, read_json, read_lines, reraise_as

if TYPE_CHECKING:
    from evals.run.lm_eval.scores import Scores

HOW = "run lm_eval with --output_path and --log_samples"
_ROUNDING = 1e-6
"""What the value of a log may be off from that of its rows: the order of a sum changes it."""


class _Told(BaseModel):
    """What is read of `results_*.json`, by task."""

    model_config = ConfigDict(strict=True)

    configs: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]
    higher_is_better: dict[str, dict[str, bool | None]]


class _Row(BaseModel):
    """What every row of samples has. The score of each of its `metrics` is beside it."""

    model_config = ConfigDict(strict=True)

    filter: str
    doc_hash: str
    metrics: list[str]


def compare_logs(first: Path, second: Path) -> list[Measured]:
    """Every metric of both runs (base: the first), with the change, on the same documents.

    The newest run of each folder counts. Tasks that only one of the runs has are left out.
    """
    from evals.measure.differences import compare_scores
    from evals.run.lm_eval.scores import collect_scores

    logs = [_read_log(folder) for folder in (first, second)]
    tasks = [task for task in logs[0] if task in logs[1]]
    if not tasks:
        got = " and ".join(", ".join(log) for log in logs)
        raise MeasurementError("the two runs have no task in common", where=second, got=got)
    found: list[Measured] = []
    for task in tasks:
        runs = [log[task] for log in logs]
        aggregates = {name: of for run in runs for name, of in run["aggregates"].items()}
        if unknown := sorted(name for name, of in aggregates.items() if of is None):
            say(f"{task}: left out {', '.join(unknown)}: the log does not say how it is averaged")
        if len(unknown) == len(aggregates):
            continue
        _check_prompts(task, *(run["samples"] for run in runs))
        scores = [collect_scores(task, run, run["aggregates"]) for run in runs]
        shared = [name for name in scores[0] if name in scores[1]]
        for name in shared:
            _check_alike(f"{task}, {name}", *(score[name] for score in scores))
        if shared:
            with (
                np.errstate(all="ignore"),
                reraise_as(MeasurementError, "has scores that cannot be compared", task),
            ):
                for name in shared:
                    found += compare_scores(f"task.{task} {name}", scores[0][name], scores[1][name])
    if not found:
        raise MeasurementError(
            "the two runs have no metric that can be compared", where=second, got=", ".join(tasks)
        )
    return found


def _check_alike(name: str, first: Scores, second: Scores) -> None:
    """Raises `MeasurementError` unless both are scores of the same documents, in the same sense."""
    ours, theirs = first.documents, second.documents
    if ours != theirs:
        raise MeasurementError(
            "the two runs answered different documents", where=name.partition(",")[0],
            expected=f"the {len(ours):,} of the first", got=f"{len(theirs):,}",
            fix="run both with the same version of the task and the same limit",
        )  # fmt: skip
    if first.higher_is_better != second.higher_is_better:
        raise MeasurementError(
            "higher is better in one of the two runs, and worse in the other", where=name,
            fix="run both with the same version of the task",
        )  # fmt: skip


def _check_prompts(task: str, *runs: list[dict[str, Any]]) -> None:
    """Raises `MeasurementError` if a document was asked in two ways, where the logs tell."""
    ours, theirs = ({row["doc_hash"]: row.get("prompt_hash") for row in run} for run in runs)
    both = [one for one in ours if ours[one] and theirs.get(one)]
    if other := sum(ours[one] != theirs[one] for one in both):
        raise MeasurementError(
            "the two runs asked in different ways", where=task,
            expected="equal prompts", got=f"others for {other:,} of {len(both):,} documents",
            fix="run both with the same examples, chat template, and instruction",
        )  # fmt: skip


def _read_log(folder: Path) -> dict[str, dict[str, Any]]:
    """Task → what `collect_scores` takes, of the newest run in the folder."""
    if not folder.is_dir():
        wrong = "is a file, not a folder" if folder.is_file() else "no such folder"
        raise SourceError(wrong, where=folder, expected="results of lm-eval", fix=HOW)
    results = max(folder.rglob("results_*.json"), key=lambda path: path.name, default=None)
    if results is None:
        raise SourceError("has no results of lm-eval (results_*.json)", where=folder, fix=HOW)
    with reraise_as(SourceError, "is not a result of lm-eval", results):
        told = _Told.model_validate(read_json(results))
    stamp = results.stem.removeprefix("results_")
    found = {}
    for file in sorted(results.parent.glob(f"samples_*_{stamp}.jsonl")):
        task = file.stem.removeprefix("samples_").removesuffix(f"_{stamp}")
        with reraise_as(SourceError, "is not a log of lm-eval's samples", file):
            found[task] = _read_task(file, told, task)
    if not found:
        raise SourceError("has no samples beside its results", where=results, fix=HOW)
    return found


def _read_task(file: Path, told: _Told, task: str) -> dict[str, Any]:
    """What `collect_scores` takes of one task, with values of the rows. An error means a broken
    log.
    """
    with file.open("rb") as lines:
        rows = [parse_json(line) for _, line in read_lines(lines, file, SourceError)]
    for row in rows:
        lacking = [name for name in _Row.model_validate(row).metrics if name not in row]
        if lacking:
            raise ValueError(f"a row has no {lacking[0]!r:.60}, which it lists")
    rows.sort(key=lambda row: (row["filter"], row["doc_hash"]))
    metrics = sorted({name for row in rows for name in row["metrics"]})
    config, results = told.configs[task], told.results[task]
    listed = {one["metric"]: one for one in config.get("metric_list") or []}
    aggregates = {name: _find_aggregate(listed, name, rows, results) for name in metrics}
    return {
        "samples": rows,
        "aggregation": {name: of.__name__ for name, of in aggregates.items() if of is not None},
        "aggregates": aggregates,
        "results": {
            name: value
            for metric, of in aggregates.items()
            if of is not None
            for name, value in _aggregate(metric, of, rows, results)
        },
        "higher_is_better": told.higher_is_better[task],
    }


def _collect(metric: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Filter → the scores of a metric, in the order of the rows."""
    scores: dict[str, list[Any]] = {}
    for row in rows:
        if metric in row["metrics"]:
            scores.setdefault(row["filter"], []).append(row[metric])
    return scores


def _aggregate(
    metric: str,
    aggregate: Callable[..., float],
    rows: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
) -> Iterator[tuple[str, float]]:
    """Yields a metric with its filter, and the value that its rows give.

    Raises ValueError unless that is the one that the log tells. What it tells nothing of is left
    out.
    """
    for label, scores in _collect(metric, rows).items():
        told = values.get(name := f"{metric},{label}")
        if told is None:
            continue
        try:
            found = float(aggregate(scores))
        except Exception as error:  # of code of others, on scores of any kind
            raise ValueError(f"{name}: {aggregate.__name__} takes no such scores") from error
        is_number = type(told) in (int, float) and math.isfinite(found)
        if not is_number or not math.isclose(found, told, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            raise ValueError(f"{name} is {told!r:.40}, and its rows give {found:.6g}")
        yield name, found


def _find_aggregate(
    listed: Mapping[str, Any],
    metric: str,
    rows: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
) -> Callable[..., float] | None:
    """What makes one value of all documents; None for code of the task's own.

    A metric that is not listed is lm-eval's own with its usual aggregation, or it comes from such
    code, which most often takes the mean. Of the two, it is the one that gives the log's `values`.
    """
    from lm_eval.api.registry import get_aggregation, get_metric_aggregation

    if metric in listed:
        name = listed[metric].get("aggregation")
        told: Callable[..., float] | None
        told = get_metric_aggregation(metric) if name is None else get_aggregation(name)
        return told
    scores = _collect(metric, rows)
    known: tuple[Callable[..., float] | None, ...] = (
        get_metric_aggregation(metric),
        get_aggregation("mean"),
    )
    for aggregate in known:
        with suppress(LookupError, TypeError, ValueError, ArithmeticError):  # of other scores
            if aggregate is not None and all(
                math.isclose(aggregate(some), float(values[f"{metric},{name}"]), abs_tol=1e-9)
                for name, some in scores.items()
            ):
                return aggregate
    return None
