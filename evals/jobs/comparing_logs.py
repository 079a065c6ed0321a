"""Compares two runs of lm-eval, by anyone, from the folders that lm-eval wrote."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.run.console import say
from surgery.errors import MeasurementError, SourceError
from surgery.untrusted import guard, open_regular, parse_json, read_json, read_lines

if TYPE_CHECKING:
    from evals.measure.differences import Metric

HOW = "run lm_eval with --output_path and --log_samples"


def compare_logs(first: Path, second: Path) -> dict[str, dict[str, Metric]]:
    """Task → metric → the paired difference, second minus first, on the same documents.

    The newest run of each folder counts. Tasks that only one of the runs has are left out.
    """
    from evals.measure.differences import compare_scores
    from evals.run.lm_eval.scores import collect_scores

    logs = [_read_log(folder) for folder in (first, second)]
    tasks = [task for task in logs[0] if task in logs[1]]
    if not tasks:
        got = " and ".join(", ".join(log) for log in logs)
        raise MeasurementError("the two runs have no task in common", where=second, got=got)
    found = {}
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
            ours, theirs = (one[name].documents for one in scores)
            if ours != theirs:
                raise MeasurementError(
                    "the two runs answered different documents", where=task,
                    expected=f"the {len(ours):,} of the first", got=f"{len(theirs):,}",
                    fix="run both with the same version of the task and the same limit",
                )  # fmt: skip
        if shared:
            found[task] = {
                name: compare_scores(scores[0][name], scores[1][name]) for name in shared
            }
    if not found:
        raise MeasurementError(
            "the two runs have no metric that can be compared", where=second, got=", ".join(tasks)
        )
    return found


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
    told: Any = read_json(results)
    stamp = results.stem.removeprefix("results_")
    found = {}
    for file in sorted(results.parent.glob(f"samples_*_{stamp}.jsonl")):
        task = file.stem.removeprefix("samples_").removesuffix(f"_{stamp}")
        with guard(SourceError, "is not a log of lm-eval's samples", file):
            found[task] = _read_task(file, told, task)
    if not found:
        raise SourceError("has no samples beside its results", where=results, fix=HOW)
    return found


def _read_task(file: Path, told: Any, task: str) -> dict[str, Any]:
    """What `collect_scores` takes of one task. `told`: the results. An error means a broken log."""
    with open_regular(file, SourceError) as lines:
        rows = [parse_json(line) for _, line in read_lines(lines, file, SourceError)]
    rows.sort(key=lambda row: (row["filter"], row["doc_hash"]))
    metrics = sorted({name for row in rows for name in row["metrics"] if name in row})
    listed = {one["metric"]: one for one in told["configs"][task].get("metric_list") or []}
    aggregates = {
        name: _find_aggregate(listed, name, rows, told["results"][task]) for name in metrics
    }
    return {
        "samples": rows,
        "aggregation": {name: of.__name__ for name, of in aggregates.items() if of is not None},
        "aggregates": aggregates,
        "results": told["results"][task],
        "higher_is_better": told["higher_is_better"][task],
    }


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
    scores: dict[str, list[Any]] = {}
    for row in rows:
        if metric in row:
            scores.setdefault(row["filter"], []).append(row[metric])
    known: tuple[Callable[..., float] | None, ...] = (
        get_metric_aggregation(metric),
        get_aggregation("mean"),
    )
    for aggregate in known:
        with suppress(TypeError, ValueError, ArithmeticError):  # of other scores than it takes
            if aggregate is not None and all(
                math.isclose(aggregate(some), float(values[f"{metric},{name}"]), abs_tol=1e-9)
                for name, some in scores.items()
            ):
                return aggregate
    return None
