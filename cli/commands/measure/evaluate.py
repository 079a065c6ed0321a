"""attn-surgery evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.config import config_of
from cli.evaluating import check_asked, evaluation_options, make_plan, say_gates
from cli.options import (
    EXISTING_FILE,
    FOLDER,
    echo,
    json_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    revision_option,
    running_options,
)
from cli.progress import progress
from cli.tables.evaluation import print_evaluation, print_side_by_side
from surgery.hub.embedded import lab_of

if TYPE_CHECKING:
    from evals.evaluation.evaluation import Evaluation


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--baseline", metavar="BASE", help="The model before the edit; required.")
@revision_option
@evaluation_options
@click.option(
    "--front",
    type=EXISTING_FILE,
    metavar="FILE",
    help="A search's JSON, shown in the trade-off picture.",
)
@output_option("Folder of the report.  [default: NAME-evaluation]", FOLDER)
@overwrite_option
@running_options
@click.option("--no-cache", is_flag=True, help="Run the base's benchmarks again.")
@click.option("--show-text", is_flag=True, help="Put the passages' text into the report.")
@json_option
def command(
    models: tuple[str, ...],
    baseline: str | None,
    revision: str | None,
    front: Path | None,
    output: Path | None,
    overwrite: bool,
    no_cache: bool,
    show_text: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what an edit cost and what it bought: benchmarks, extraction, gates, one report.

    MODEL is compared with BASE on the same documents and passages. The folder gets report.html,
    report.md, report.json and lm-eval's own results. Exit code 3 when a gate is missed.

    Of several MODELs each gets such a folder in DIR, and side-by-side.html (.md, .json) shows them
    in columns.
    """
    if baseline is None:
        raise click.UsageError("evaluate compares with the model before the edit: give --baseline")
    several = len(models) > 1
    if several and revision is not None:
        raise click.UsageError("--revision is of one MODEL: export or download the others first")
    lab = lab_of(*models, baseline)
    check_asked(asked, lab)
    output = output or Path(f"{_short(baseline if several else models[0])}-evaluation")

    from evals.evaluation import files, side_by_side
    from evals.evaluation.conclusions import read_front
    from evals.evaluation.evaluation import evaluate
    from evals.running.processes import Processes
    from surgery.hub.finding import find_model
    from surgery.output import atomic_folder, check_output

    owned = side_by_side.owned if several else files.owned
    check_output(output, owned, overwrite=overwrite)
    processes = Processes.launched(say=note)
    plan = make_plan(
        {**asked, "device": asked["device"] or (processes.device and str(processes.device))},
        lab,
        models=[(baseline, None), *((model, revision) for model in models)],
        cached=not no_cache,
        show_text=show_text,
        front=read_front(front) if front else (),
        processes=processes,
    )
    edited = [find_model(model, revision) for model in models]
    found = evaluate(edited, find_model(baseline), plan, say=note, progress=progress)
    if not processes.is_main:
        return
    beside = None
    config = config_of(click.get_current_context())
    with atomic_folder(output, owned, overwrite=overwrite, config=config) as folder:
        if several:
            names = (f"{place}-{_short(model)}" for place, model in enumerate(models, start=1))
            beside = side_by_side.write_side_by_side(dict(zip(names, found, strict=True)), folder)
        else:
            files.write_evaluation(found[0], folder)
    for model, one in zip(models, found, strict=True):
        _attach(one, Path(model), show_text)
    for report in (one.report for one in found):
        for warning in report.warnings:
            note(f"warning: {report.models.edited + ': ' if several else ''}{warning}")
    if as_json:
        print_json((beside or found[0].report).to_dict())
    elif beside is None:
        print_evaluation(found[0].report, output)
    else:
        print_side_by_side(beside)
        echo(f"report: {output / side_by_side.PAGE}")
    passed = [say_gates(one.report, several=several) for one in found]
    if not all(passed):
        raise click.exceptions.Exit(3)


def _attach(found: Evaluation, folder: Path, show_text: bool) -> None:
    """Into the folder of an exported MODEL, for its card and for push: what holds for it whole."""
    from evals.evaluation.files import attach
    from surgery.errors import SurgeryError

    if not (folder / "surgery.json").is_file():
        return
    report = found.report
    reasons = {
        f"{report.models.base} is not known to be its source": report.relation != "source",
        "of the benchmarks only a part was measured (--limit)": report.settings.limit is not None,
        "this report shows the text of passages": show_text,
    }
    if any(reasons.values()):
        reason = next(reason for reason, holds in reasons.items() if holds)
        note(f"{folder}: report and model card stay as they are: {reason}")
        return
    try:
        attach(found, folder)
    except SurgeryError as error:  # the evaluation itself is done and written
        note(f"warning: the report is not beside the model: {error}")
    else:
        note(f"{folder}: report and model card brought up to date")


def _short(model: str) -> str:
    """The last part of a model's name, as a folder may be called."""
    return Path(model.replace(":", "-")).expanduser().resolve().name
