"""Runs a sweep from its request to its result and folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evals.choose.search.estimates import Estimates, estimate_units
from evals.choose.search.task import Half
from evals.choose.search.units import held_in_stock
from evals.choose.sweep.benchmarks import TaskRuns, add_tasks, run_tasks
from evals.choose.sweep.request import SweepRequest
from evals.choose.sweep.task import SweepTask, open_sweep
from evals.jobs.result_folder import ResultFolder
from evals.measure.bounds.divergence import measure_bounds
from evals.measure.edits.engine import BASE
from evals.measure.memorization.recovery import make_recovery
from evals.report.sweep_pictures import PICTURES, draw_pictures
from evals.report.sweep_report import describe_sweep, format_csv, make_sweep_report
from evals.run.console import say, show_progress
from surgery.output import recognize_by, write_text
from surgery.processes import leave_launch

BOUND_WINDOWS = 32
"""Windows of held-out text for `measure_bounds`, at least, if there are so many."""
_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("sweep.json", ("base", "edits"), "sweep.csv", "estimates.csv", *_PICTURES)


def sweep(
    request: SweepRequest, folder: Path | None = None, *, overwrite: bool = False
) -> dict[str, Any] | None:
    """Returns the JSON object of `sweep --json`, or None except on the main process.

    Writes it into `folder`, with a table and pictures, and continues from progress that an
    interrupted sweep left beside it. Raises `SurgeryError` for inputs that it cannot use and for a
    folder that it cannot write.
    """
    output = ResultFolder(request, folder, owned, overwrite)
    task = open_sweep(request)
    journal = output.open_journal(partial(describe_sweep, task), task.loaded)
    with show_progress(f"sweep {request.model}", task.engine.work(task.edits)) as advance:
        measured = task.engine.measure([BASE, *task.edits], advance=advance, journal=journal)
    runs = _run_tasks(task, output)
    estimates = _estimate(task) if request.estimate else None
    if not leave_launch():
        return None
    bounds = None
    if request.bounds and task.heldout is not None:
        windows = task.heldout[:: max(1, len(task.heldout) // BOUND_WINDOWS)]
        with show_progress("bounds", len(windows)) as advance:
            bounds = measure_bounds(task.loaded.model, windows, advance=advance)
    result = make_sweep_report(task, measured, estimates, bounds)
    if task.benchmarks is not None:
        result = add_tasks(result, task.benchmarks, runs, task.sizes)
    for warning in result["warnings"][len(task.warnings) :]:
        say(f"warning: {warning}")
    output.write("sweep.json", result, partial(_write_tables, result))
    return result


def _write_tables(result: dict[str, Any], folder: Path) -> None:
    write_text(folder / "sweep.csv", format_csv([result["base"], *result["edits"]]))
    if "estimates" in result:
        write_text(folder / "estimates.csv", format_csv(result["estimates"]))
    draw_pictures(result, folder)


def _run_tasks(task: SweepTask, output: ResultFolder) -> list[TaskRuns]:
    """Runs the benchmarks, if there are any, under every edit."""
    if (benchmarks := task.benchmarks) is None:
        return []
    journal = output.open_journal(
        lambda: describe_sweep(task, benchmarks.identify(task.sizes)), task.loaded, ".tasks"
    )
    with show_progress("run tasks", len(task.edits) + 1) as advance:
        return run_tasks(
            benchmarks,
            task.loaded,
            list(task.edits),
            task.sizes,
            fit=task.fitter.fit if task.fitter else None,
            advance=advance,
            journal=journal,
        )


def _estimate(task: SweepTask) -> Estimates:
    """Estimates every unit on the recited members, or on all members if none is recited."""
    assert task.heldout is not None
    members = task.samples.trained_on
    recited = task.engine.base.exact[members]
    with show_progress("estimate", None) as advance:
        return estimate_units(
            task.loaded.model,
            Half(task.samples.select(members), task.heldout),
            recited if recited.any() else np.ones_like(recited),
            task.units,
            (),
            make_recovery("greedy"),
            task.fit_alone(),
            stock=held_in_stock(task.units, task.loaded.editable),
            advance=advance,
        )
