"""attn-surgery evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.config import config_of
from cli.evaluating import (
    evaluation_options,
    evaluation_request,
    open_evaluation,
    say_gates,
    say_warnings,
)
from cli.options import (
    EXISTING_FILE,
    FOLDER,
    json_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    revision_option,
    running_options,
)
from cli.progress import progress
from cli.tables.evaluation import print_evaluation

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
    help="A search's JSON, shown in the picture of the trade-off.",
)
@output_option("Folder of the report.  [default: NAME-evaluation]", FOLDER)
@overwrite_option
@running_options
@click.option("--no-cache", is_flag=True, help="Run the base's benchmarks again.")
@click.option(
    "--show-text",
    is_flag=True,
    help="Write the texts of passages that the report shows, in a file of their own.",
)
@json_option
def command(
    models: tuple[str, ...],
    baseline: str | None,
    revision: str | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Measure what an edit cost and what it bought: benchmarks, extraction, gates, one report.

    Compares every MODEL with BASE on the same documents and passages. DIR gets report.html,
    report.md, report.json and lm-eval's own results. A MODEL that is an exported folder gets its
    own report, too. Exit code 3 when a gate is missed.
    """
    if baseline is None:
        raise click.UsageError("evaluate compares with the model before the edit: give --baseline")
    request = evaluation_request(asked, models=models, baseline=baseline, revision=revision)

    from evals.evaluation import files
    from evals.evaluation.evaluation import evaluate
    from surgery.hub.finding import find_model
    from surgery.output import atomic_folder, check_output
    from surgery.processes import join_launch, leave_launch

    output = output or Path(f"{_short(baseline if len(models) > 1 else models[0])}-evaluation")
    check_output(output, files.owned, overwrite=overwrite)
    join_launch(note)
    known = [(baseline, None), *((model, revision) for model in models)]
    materials = open_evaluation(request, known)
    edited = [find_model(model, revision) for model in models]
    found = evaluate(edited, find_model(baseline), materials, say=note, progress=progress)
    if not leave_launch():
        return
    config = config_of(click.get_current_context())
    with atomic_folder(output, files.owned, overwrite=overwrite, config=config) as folder:
        files.write_evaluation(found, folder)
    for place, model in enumerate(models):
        _attach(found, place, Path(model))
    say_warnings(found.report)
    if as_json:
        print_json(found.report.to_dict())
    else:
        print_evaluation(found.report, output)
    if not say_gates(found.report):
        raise click.exceptions.Exit(3)


def _attach(found: Evaluation, place: int, folder: Path) -> None:
    """Puts the report into the folder of an exported MODEL, for its card and for push."""
    from evals.evaluation.files import attach
    from surgery.errors import SurgeryError

    if not (folder / "surgery.json").is_file():
        return
    report = found.report
    reasons = {
        f"{report.base.name} is not known to be its source": (
            report.edits[place].relation != "source"
        ),
        "of the benchmarks only a part was measured (--limit)": report.settings.limit is not None,
    }
    if any(reasons.values()):
        reason = next(reason for reason, holds in reasons.items() if holds)
        note(f"{folder}: report and model card stay as they are: {reason}")
        return
    try:
        attach(found, place, folder)
    except SurgeryError as error:  # the evaluation itself is done and written
        note(f"warning: the report is not beside the model: {error}")
    else:
        note(f"{folder}: report and model card brought up to date")


def _short(model: str) -> str:
    """The last part of a model's name, as a folder may be called."""
    return Path(model.replace(":", "-")).expanduser().resolve().name
