"""A search from its request to its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.files import Journal
from evals.inputs import (
    Progress,
    Say,
    calibration_text,
    fitter_for,
    needed_texts,
    open_model,
    open_passages,
    say_nothing,
    show_nothing,
    tokenized,
)
from evals.memorization.recovery import recovery_of
from evals.running.processes import Processes
from evals.samples.windows import control_windows
from evals.search.folder import finished, finished_plan, owned, write_search
from evals.search.report import plan_of, question, search_report
from evals.search.request import SearchRequest
from evals.search.resuming import point_from_json
from evals.search.run import Task, run
from surgery.fitting.fitter import Fitter
from surgery.hub.embedded import lab_of
from surgery.output import check_output
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection

Answer = tuple[dict[str, Any], PlanFile]
"""The object of `search --json`, whose `selected` is None where nothing meets the goal; and what to
export: what will do, else comes nearest."""


def search(
    request: SearchRequest,
    folder: Path,
    *,
    overwrite: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> Answer | None:
    """Runs the search, and writes it into `folder`. None on all processes but the main one.

    Goes on from what `folder` holds of the same search, or what an interrupted one left beside it.
    Raises `SurgeryError` for what the request names and cannot be used, and for a folder that
    cannot be written.
    """
    going_on = not overwrite and (folder / "search.json").is_file()
    check_output(folder, owned, overwrite=overwrite or going_on)
    task, fitter, warnings = _open(request, say, progress)
    processes = task.processes
    journal, done = None, None
    earlier: dict[Selection, Any] = {}
    if processes.is_main:  # others need not know what the model is
        sought = question(task, fitter)
        if going_on:
            result, earlier = finished(folder, sought)
            made = finished_plan(folder, task, result, earlier)
            if made is not None:
                done = {**result, "plan": str(folder / "plan.json")}, made
        if done is None:
            path = folder.parent / f".{folder.name}.progress"
            journal = Journal(path, sought, task.loaded.check_unchanged)
            earlier |= {point.selection: point for point in journal.read(point_from_json)}
    if processes.agree(done is not None):
        if done is not None:
            say(f"{folder}: nothing is left to search")
        return done
    if earlier:
        say(f"{len(earlier)} edits were measured before")
    with (
        progress(f"estimate {request.model}", None) as looked,
        progress(f"search {request.model}", task.max_evaluations * task.rows) as advance,
    ):
        steps = {"advance": advance, "looked": looked}
        chosen = run(task, fitter, **steps, journal=journal, earlier=processes.agree(earlier))
    if journal is None:
        return None
    result = search_report(task, chosen, fitter, warnings)
    plan = plan_of(task, chosen.best, result)
    met = result["selected"] is not None
    result["plan"] = str(folder / "plan.json") if met else None
    write_search(
        folder,
        result,
        plan if met else None,
        overwrite=overwrite or going_on,
        config=request.to_config(),
    )
    journal.remove()
    return result, plan


def _open(
    request: SearchRequest, say: Say, progress: Progress
) -> tuple[Task, Fitter | None, tuple[str, ...]]:
    """What is searched, with what fits its variants, and warnings. Texts are read before models."""
    model = request.model
    variants = request.variants(fits=bool(request.calibration) or lab_of(model) is not None)
    passages = open_passages(request.samples, request)
    texts = needed_texts(request.corpus, model)
    calibrated = calibration_text(request.calibration, model, variants)
    processes = Processes.launched(say=say)
    loaded = open_model(model, request, processes, request.revision, say=say)
    rows = tokenized(passages, loaded, say)
    task = Task(
        loaded=loaded,
        samples=rows,
        windows=control_windows(texts, loaded.tokenizer, rows.tokens.shape[1]),
        goal=request.goal,
        measure=recovery_of(request.measure),
        variants=variants,
        processes=processes,
        grain=request.grain,
        layout=request.layout,
        seed=request.seed,
        max_evaluations=request.max_evaluations,
        batch_size=request.batch_size,
    )
    offered, warnings = task.offered
    for warning in warnings:
        say(f"warning: {warning}")
    alone = [loaded.editable.plan((unit,), layout=task.layout) for unit in offered]
    fitter = fitter_for(
        alone, calibrated, loaded, layout=task.layout, processes=processes, progress=progress
    )
    return task, fitter, warnings
