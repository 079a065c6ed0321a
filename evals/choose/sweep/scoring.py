"""Runs a sweep's edits on benchmarks, and pairs their scores with the base model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from evals.measure.differences import compare_scores
from evals.measure.edits.engine import BASE
from evals.measure.edits.sharing import FitEdit
from evals.run.keep import KEEP_NOTHING, Store
from evals.run.lm_eval.scores import Scores, choose_metric
from evals.run.lm_eval.tasks import classify_ability
from evals.run.models import LoadedModel
from evals.table.measured import measure_value
from surgery.errors import MeasurementError
from surgery.processes import current_processes
from surgery.record.measured import BASE as BASE_NAME
from surgery.record.measured import Measured
from surgery.record.report import Named
from surgery.selection import Selection

if TYPE_CHECKING:  # it imports lm_eval, which takes seconds
    from evals.run.lm_eval.running import Benchmarks

TaskRun = dict[str, Any]
TaskRuns = dict[str, TaskRun]
"""Task → its run, with only what scores are made of; no samples where no number is finite."""
_OF_RUN = ("results", "aggregation", "higher_is_better")
_OF_SAMPLE = ("filter", "metrics", "doc_hash")


def choose_batch_sizes(
    benchmarks: Benchmarks, loaded: LoadedModel, batch_size: int | None, store: Store
) -> dict[str, int]:
    """Task → rows at a time: `batch_size`, by default what memory allows, or allowed when the sweep
    began. `store`: of work on the model.
    """

    def choose(name: str) -> int:
        key = ("rows per batch", benchmarks.only(name), current_processes().count)
        return store.get(key, lambda: benchmarks.batch_size(name, loaded))

    return {name: batch_size or choose(name) for name in benchmarks.tasks}


def run_tasks(
    benchmarks: Benchmarks,
    loaded: LoadedModel,
    edits: Sequence[Selection],
    sizes: dict[str, int],
    *,
    fit: FitEdit | None,
    advance: Callable[[int], None] = lambda done: None,
    store: Store = KEEP_NOTHING,
) -> list[TaskRuns]:
    """Runs every task under the base model and under every edit, in this order.

    **Arguments:** `sizes`: task → rows at a time; `advance` gets the number of
    edits just done; `store`: of work on the model, with these fits, keeps those of each edit.

    Raises `MeasurementError` in one line, whatever lm-eval and a task's code raise.
    """
    store = store.narrow("tasks", benchmarks, sizes)

    def run(selection: Selection) -> TaskRuns:
        with _put_in_force(loaded, selection, fit):
            return {name: _run(benchmarks, name, loaded, size) for name, size in sizes.items()}

    done = []
    for selection in (BASE, *edits):
        done.append(store.get(selection, partial(run, selection)))
        advance(1)
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


def measure_tasks(
    benchmarks: Benchmarks, runs: Sequence[TaskRuns], models: Sequence[str]
) -> Iterator[Measured]:
    """The main metric of every task, of the base and of every edit, with its change; without a
    value where it is not finite. `runs`: the base's, then the edits', named `models`.

    Raises `MeasurementError` for a task without a metric on the base.
    """
    for name, run in runs[0].items():
        found = benchmarks.scores(name, run)
        metric = choose_metric(found)
        base, key = found[metric], f"task.{name}"
        yield measure_value(key, base.value, of=BASE_NAME, n=len(base.values))
        for of, edited in zip(models, runs[1:], strict=True):
            scores = _score(benchmarks, name, edited[name]).get(metric)
            if scores is None:
                yield measure_value(key, None, of=of, n=len(base.values))
            else:
                yield compare_scores(key, base, scores, of=of)[1]


def _score(benchmarks: Benchmarks, name: str, run: TaskRun) -> dict[str, Scores]:
    """The scores by metric; none where nothing is finite."""
    try:
        return benchmarks.scores(name, run)
    except MeasurementError:
        return {}


def describe_tasks(
    benchmarks: Benchmarks, runs: TaskRuns, sizes: dict[str, int]
) -> dict[str, Named]:
    """How each task was asked. `runs`: the base's."""
    named = {}
    for name, run in runs.items():
        found = benchmarks.scores(name, run)
        metric = choose_metric(found)
        config, scores = benchmarks.tasks[name].config, found[metric]
        version = (config.metadata or {}).get("version")
        known: dict[str, Any] = {
            "task": name,
            "version": None if version is None else str(version),
            "num_fewshot": benchmarks.count_shots(name),
            "limit": benchmarks.limit,
            "batch_size": sizes[name],
            "ability": classify_ability(config.output_type, config.metadata or {}),
            "metric": metric,
            "higher_is_better": scores.higher_is_better,
            "share": scores.aggregation == "mean",
        }
        named[f"task.{name}"] = Named(label=f"{name}, {metric}", main=True, details=known)
    return named
