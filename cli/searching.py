"""Options that say what a search chooses from, and the search that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.inputs import (
    calibration_text,
    fitter_for,
    lab_of,
    needed_texts,
    open_model,
    open_passages,
    tokenized,
)
from cli.options import (
    calibration_option,
    corpus_option,
    count_option,
    layout_option,
    measuring_options,
    note,
    together,
)
from cli.progress import progress
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from evals.search.goals import Goal
    from surgery.record.plan_file import PlanFile


choice_options = together(
    click.option(
        "--grain",
        type=click.Choice(["blocks", "heads", "mixed"]),
        default="mixed",
        show_default=True,
        help="What is chosen: whole blocks, single heads, or both.",
    ),
    click.option(
        "--measure",
        default="any",
        show_default=True,
        metavar="M",
        help="What counts as recovered: any (by greedy, hints:2, prefix or sampling:100), greedy "
        "(word for word), hints:K (with at most K wrong tokens corrected), prefix, sampling:N, "
        "span:M: see docs/threat-model.md.",
    ),
    click.option(
        "--variant",
        "variants",
        multiple=True,
        type=click.Choice(list(VARIANTS)),
        help="What a block or head may become; may be repeated.  [default: all where there is "
        "calibration text, else identity and zero]",
    ),
    corpus_option,
    calibration_option,
    layout_option("Choose only what this layout can hold; auto: what either can."),
    count_option(
        "--max-evaluations",
        64,
        "How many edits to measure at most. Where there are no more than that, all are; else only "
        "those that estimates propose.",
        least=1,
    ),
    count_option("--seed", 0, "Decides which rows are held back.", least=0),
    measuring_options,
)
"""What is searched, and how."""


def check_measure(name: str) -> None:
    """Raises `BadParameter` for an unknown one. Imports what takes seconds, so asked last."""
    from evals.memorization.recovery import recovery_of

    try:
        recovery_of(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--measure") from None


def searched(
    model: str,
    samples: str,
    goal: Goal,
    folder: Path,
    asked: Mapping[str, Any],
    *,
    overwrite: bool = False,
    config: str | None = None,
) -> tuple[dict[str, Any], PlanFile] | None:
    """Runs the search, and writes it into `folder`. None on all processes but the main one.

    Goes on from what `folder` holds of the same search, or what an interrupted one left beside it.

    Returns the object of `search --json`, whose `selected` is None where nothing meets the goal,
    and what to export: what will do, else comes nearest.

    `asked`: by the names of `choice_options`.
    """
    from evals.files import Journal
    from evals.memorization.recovery import recovery_of
    from evals.running.processes import Processes
    from evals.samples.windows import control_windows
    from evals.search.folder import finished, finished_plan, owned, write_search
    from evals.search.report import plan_of, question, search_report
    from evals.search.resuming import point_from_json
    from evals.search.run import Task, run
    from surgery.output import check_output

    going_on = not overwrite and (folder / "search.json").is_file()
    check_output(folder, owned, overwrite=overwrite or going_on, say=note)
    fits = bool(asked["calibration"]) or lab_of(model) is not None
    default = [name for name, variant in VARIANTS.items() if fits or not variant.FITTED]
    variants = tuple(dict.fromkeys(asked["variants"] or default))
    passages = open_passages(samples, asked)
    texts = needed_texts(asked["corpora"], model)
    calibrated = calibration_text(asked["calibration"], model, variants)
    processes = Processes.launched(say=note)
    loaded = open_model(model, asked, processes, asked["revision"])
    rows = tokenized(passages, loaded)
    task = Task(
        loaded=loaded,
        samples=rows,
        windows=control_windows(texts, loaded.tokenizer, rows.tokens.shape[1]),
        goal=goal,
        measure=recovery_of(asked["measure"]),
        variants=variants,
        processes=processes,
        **{key: asked[key] for key in ("grain", "layout", "seed", "max_evaluations", "batch_size")},
    )
    offered, warnings = task.offered
    for warning in warnings:
        note(f"warning: {warning}")
    alone = [loaded.editable.plan((unit,), layout=task.layout) for unit in offered]
    fitter = fitter_for(alone, calibrated, loaded, layout=task.layout, processes=processes)
    journal, done = None, None
    earlier: dict[Any, Any] = {}
    if processes.is_main:  # others need not know what the model is
        sought = question(task, fitter)
        if going_on:
            result, earlier = finished(folder, sought)
            made = finished_plan(folder, task, result, earlier)
            if made is not None:
                done = {**result, "plan": str(folder / "plan.json")}, made
        if done is None:
            path = folder.parent / f".{folder.name}.progress"
            journal = Journal(path, sought, loaded.check_unchanged)
            earlier |= {point.selection: point for point in journal.read(point_from_json)}
    if processes.agree(done is not None):
        if done is not None:
            note(f"{folder}: nothing is left to search")
        return done
    if earlier:
        note(f"{len(earlier)} edits were measured before")
    with (
        progress(f"estimate {model}", None) as looked,
        progress(f"search {model}", task.max_evaluations * task.rows) as advance,
    ):
        chosen = run(
            task,
            fitter,
            advance=advance,
            looked=looked,
            journal=journal,
            earlier=processes.agree(earlier),
        )
    if journal is None:
        return None
    result = search_report(task, chosen, fitter, warnings)
    plan = plan_of(task, chosen.best, result)
    met = result["selected"] is not None
    result["plan"] = str(folder / "plan.json") if met else None
    write_search(
        folder, result, plan if met else None, overwrite=overwrite or going_on, config=config
    )
    journal.remove()
    return result, plan
