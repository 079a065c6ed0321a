"""Runs a sweep from its request to its result and folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evals.choose.estimates import Estimates, estimate_units
from evals.choose.grid import GridEdit, measure_points
from evals.choose.sweep.opened import OpenedSweep, open_sweep
from evals.choose.sweep.pictures import PICTURES, draw_pictures
from evals.choose.sweep.report import SweepResult, format_csv, make_sweep_result
from evals.choose.sweep.request import SweepRequest
from evals.choose.sweep.scoring import TaskRuns, run_tasks
from evals.data.held_back import Half
from evals.measure.edits.engine import BASE as UNEDITED
from evals.measure.memorization.recovery import make_recovery
from evals.run.console import say, show_progress
from surgery.output import check_output, create_folder, recognize_by, write_lines, write_text
from surgery.record.measured import BASE

_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("sweep.json", ("command", "figures"), "sweep.csv", "estimates.csv", *_PICTURES)


def sweep(
    request: SweepRequest, folder: Path | None = None, *, overwrite: bool = False
) -> SweepResult:
    """Returns the result, and writes it into `folder`, with a table and pictures.

    Raises `SurgeryError` for inputs that it cannot use and for a folder that it cannot write.
    """
    if folder is not None:
        check_output(folder, owned, overwrite=overwrite)
    opened = open_sweep(request)
    what = f"sweep {request.model}" + (", before the tasks" if opened.benchmarks else "")
    with show_progress(what, opened.engine.work(opened.edits)) as advance:
        points = measure_points(
            opened.engine,
            [UNEDITED, *opened.edits],
            "all",
            rows=opened.samples.trained_on,
            advance=advance,
        )
    runs = _run_tasks(opened)
    estimates = _estimate(opened) if request.estimate else None
    result = make_sweep_result(opened, points, estimates, runs)
    for warning in result.warnings[len(opened.warnings) :]:
        say(f"warning: {warning}")
    if folder is not None:
        config = request.to_config()
        with create_folder(folder, owned, overwrite=overwrite, config=config) as partial:
            write_lines(partial / "sweep.json", [json.dumps(result.to_dict(), indent=2)])
            _write_tables(result, partial)
    return result


def _write_tables(result: SweepResult, folder: Path) -> None:
    base = GridEdit(of=BASE, spec="none", variant="none", blocks=[], parts=[])
    write_text(folder / "sweep.csv", format_csv(result, [base, *result.edits]))
    if result.estimates:
        write_text(folder / "estimates.csv", format_csv(result, result.estimates))
    draw_pictures(result, folder)


def _run_tasks(opened: OpenedSweep) -> list[TaskRuns]:
    """Runs the benchmarks, if there are any, under every edit."""
    if opened.benchmarks is None:
        return []
    with show_progress("run tasks", len(opened.edits) + 1) as advance:
        return run_tasks(
            opened.benchmarks,
            opened.loaded,
            list(opened.edits),
            opened.sizes,
            fit=opened.fitter.fit if opened.fitter else None,
            advance=advance,
            store=opened.store,
        )


def _estimate(opened: OpenedSweep) -> Estimates:
    """Estimates every unit on the recited members, or on all members if none is recited."""
    members = opened.samples.trained_on
    recited = opened.engine.base.exact[members]
    with show_progress("estimate", None) as advance:
        return estimate_units(
            opened.loaded.editable,
            Half(opened.samples.select(members), opened.heldout),
            recited if recited.any() else np.ones_like(recited),
            opened.units,
            make_recovery("greedy"),
            opened.fit_alone(),
            advance=advance,
        )
