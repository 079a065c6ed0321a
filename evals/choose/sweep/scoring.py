"""Runs a sweep's edits on benchmarks, and pairs their scores with the base model's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from evals.measure.differences import compare_scores
from evals.measure.edits.engine import BASE
from evals.measure.edits.sharing import FitEdit
from evals.run.journal import KEEP_NOTHING, Journal
from evals.run.lm_eval.scores import Scores, choose_metric
from evals.run.lm_eval.tasks import classify_ability
from evals.run.models import LoadedModel
from surgery.errors import MeasurementError
from surgery.processes import current_processes
from surgery.selection import Selection

if TYPE_CHECKING:  # it imports lm_eval, which takes seconds
    from evals.run.lm_eval.running import Benchmarks

TaskRun = dict[str, Any]
TaskRuns = dict[str, TaskRun]
"""Task → its run, with only what scores are made of; no samples where no number is finite."""
_OF_RUN = ("results", "aggregation", "higher_is_better")
_OF_SAMPLE = ("filter", "metrics", "doc_hash")


def choose_batch_sizes(
    benchmarks: Benchmarks, loaded: LoadedModel, batch_size: int | None
) -> dict[str, int]:
    """Task → rows at a time: `batch_size`, by default what memory allows.

    Raises `MeasurementError` for a model without a tokenizer.
    """
    if loaded.tokenizer is None:
        raise MeasurementError("benchmarks need a tokenizer", where=loaded.name)
    return {
        name: batch_size or current_processes().once(benchmarks.batch_size, name, loaded)
        for name in benchmarks.tasks
    }


def run_tasks(
    benchmarks: Benchmarks,
    loaded: LoadedModel,
    edits: Sequence[Selection],
    sizes: dict[str, int],
    *,
    fit: FitEdit | None,
    advance: Callable[[int], None] = lambda done: None,
    journal: Journal = KEEP_NOTHING,
) -> list[TaskRuns]:
    """Runs every task under the base model and under every edit, in this order.

    **Arguments:** `sizes`: task → rows at a time; `advance` gets the number of
    edits just done; `journal` keeps each edit's and gives back what an earlier run did.

    Raises `MeasurementError` in one line, whatever lm-eval and a task's code raise.
    """
    done: list[TaskRuns] = current_processes().once(journal.read, lambda step: step["tasks"])
    advance(len(done))
    with journal.open_to_append():
        for selection in (BASE, *edits)[len(done) :]:
            with _put_in_force(loaded, selection, fit):
                found = {name: _run(benchmarks, name, loaded, size) for name, size in sizes.items()}
            done.append(found)
            advance(1)
            journal.append({"tasks": found})
    return done


def _put_in_force(
    loaded: LoadedModel, selection: Selection, fit: FitEdit | None
) -> AbstractContextManager[None]:
    """Puts an edit in force; the base model stays as it is."""
    if selection == BASE:
        return nullcontext()
    plan = loaded.editable.plan(selection)
    fits = fit(selection) if fit is not None and plan.fitted else {}
    return loaded.editable.make_replacements(plan, fits).activate()


def _run(benchmarks: Benchmarks, name: str, loaded: LoadedModel, rows: int) -> TaskRun:
    try:
        run = benchmarks.run(name, loaded, batch_size=rows)
    except MeasurementError as error:
        if isinstance(error.__cause__, OverflowError):  # a perplexity beyond reach
            return {"samples": []}
        raise
    samples = [
        {key: sample[key] for key in (*_OF_SAMPLE, *sample["metrics"])} for sample in run["samples"]
    ]
    return {**{key: run[key] for key in _OF_RUN}, "samples": samples}


def add_tasks(
    result: dict[str, Any],
    benchmarks: Benchmarks,
    runs: Sequence[TaskRuns],
    sizes: dict[str, int],
) -> dict[str, Any]:
    """A sweep's result with `tasks`: how each was asked, and in the base and every edit its value.

    An edit's task also has its `difference` from the base, edited minus base, and the 95 % interval
    of that (`evals.measure.differences.compare_scores`); null where its value is not finite.
    `runs`: the base's, then the edits', as in the result.

    Raises `MeasurementError` for a task without a metric on the base.
    """
    values, described = {}, {}
    edits = [record | {"tasks": {}} for record in result["edits"]]
    for name, run in runs[0].items():
        found = benchmarks.scores(name, run)
        metric = choose_metric(found)
        scores, config = found[metric], benchmarks.tasks[name].config
        values[name] = {"metric": metric, "value": scores.value}
        described[name] = {
            "version": (config.metadata or {}).get("version"),
            "num_fewshot": config.num_fewshot,
            "limit": benchmarks.limit,
            "batch_size": sizes[name],
            "ability": classify_ability(config.output_type, config.metadata or {}),
            "metric": metric,
            "higher_is_better": scores.higher_is_better,
            "share": scores.aggregation == "mean",
            "n": len(scores.values),
        }
        for record, edited in zip(edits, runs[1:], strict=True):
            compared = _compare(benchmarks, name, metric, scores, edited[name])
            record["tasks"][name] = {"metric": metric, **compared}
    base = result["base"] | {"tasks": values}
    return {**result, "base": base, "edits": edits, "tasks": described}


def _compare(
    benchmarks: Benchmarks, name: str, metric: str, base: Scores, run: TaskRun
) -> dict[str, Any]:
    try:
        edited = benchmarks.scores(name, run)[metric]
    except (MeasurementError, KeyError):  # nothing finite
        return {"value": None, "difference": None, "ci95": None}
    found = compare_scores(base, edited)
    return {"value": found.edited, "difference": found.difference, "ci95": list(found.ci95)}
