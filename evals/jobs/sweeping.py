"""Runs a sweep from its request to its result and folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from evals.choose.search.estimates import Estimates, estimate_units
from evals.choose.search.task import Half
from evals.choose.search.units import held_in_stock
from evals.choose.sweep.benchmarks import TaskRuns, add_tasks, run_tasks
from evals.choose.sweep.request import SweepRequest
from evals.choose.sweep.task import SweepTask, open_sweep
from evals.data.inputs import Progress, Say, say_nothing, show_nothing
from evals.measure.bounds.divergence import measure_bounds
from evals.measure.edits.engine import BASE
from evals.measure.memorization.recovery import make_recovery
from evals.report.sweep_pictures import PICTURES, draw_pictures
from evals.report.sweep_report import format_csv, make_sweep_report, open_journal
from evals.run.journal import Journal
from surgery.output import check_output, create_folder, recognize_by, write_lines, write_text
from surgery.processes import current_processes, leave_launch

BOUND_WINDOWS = 32
"""Windows of held-out text for `measure_bounds`, at least, if there are so many."""
_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("sweep.json", ("base", "edits"), "sweep.csv", "estimates.csv", *_PICTURES)


def sweep(
    request: SweepRequest,
    folder: Path | None = None,
    *,
    overwrite: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> dict[str, Any] | None:
    """Returns the JSON object of `sweep --json`, or None except on the main process.

    Writes it into `folder`, with a table and pictures, and continues from progress that an
    interrupted sweep left beside it. Raises `SurgeryError` for inputs that it cannot use and for a
    folder that it cannot write.
    """
    if folder is not None:
        check_output(folder, owned, overwrite=overwrite)
    task = open_sweep(request, say, progress)
    journals: list[Journal] = []
    if folder is not None and current_processes().is_main:  # only this one hashes the model
        journals.append(open_journal(folder, task))
        if task.benchmarks is not None:
            questions = task.benchmarks.identify(task.sizes)
            journals.append(open_journal(folder, task, questions))
    journal, task_journal = (*journals, None, None)[:2]
    with progress(f"sweep {request.model}", task.engine.work(task.edits)) as advance:
        measured = task.engine.measure([BASE, *task.edits], advance=advance, journal=journal)
    runs = _run_tasks(task, task_journal, progress)
    estimates = _estimate(task, progress) if request.estimate else None
    if not leave_launch():
        return None
    bounds = None
    if request.bounds and task.heldout is not None:
        windows = task.heldout[:: max(1, len(task.heldout) // BOUND_WINDOWS)]
        with progress("bounds", len(windows)) as advance:
            bounds = measure_bounds(task.loaded.model, windows, advance=advance)
    result = make_sweep_report(task, measured, estimates, bounds)
    if task.benchmarks is not None:
        result = add_tasks(result, task.benchmarks, runs, task.sizes)
    for warning in result["warnings"][len(task.warnings) :]:
        say(f"warning: {warning}")
    if folder is not None:
        config = request.to_config()
        with create_folder(folder, owned, overwrite=overwrite, config=config) as partial:
            write_lines(partial / "sweep.json", [json.dumps(result, indent=2)])
            write_text(partial / "sweep.csv", format_csv([result["base"], *result["edits"]]))
            if "estimates" in result:
                write_text(partial / "estimates.csv", format_csv(result["estimates"]))
            draw_pictures(result, partial)
    for file in journals:
        file.remove()
    return result


def _run_tasks(task: SweepTask, journal: Journal | None, progress: Progress) -> list[TaskRuns]:
    """Runs the benchmarks, if there are any, under every edit."""
    if task.benchmarks is None:
        return []
    with progress("run tasks", len(task.edits) + 1) as advance:
        return run_tasks(
            task.benchmarks,
            task.loaded,
            list(task.edits),
            task.sizes,
            fit=task.fitter.fit if task.fitter else None,
            advance=advance,
            journal=journal,
        )


def _estimate(task: SweepTask, progress: Progress) -> Estimates:
    """Estimates every unit on the recited members, or on all members if none is recited."""
    assert task.heldout is not None
    members = task.samples.trained_on
    recited = task.engine.base.exact[members]
    with progress("estimate", None) as advance:
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
