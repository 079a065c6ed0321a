"""attn-surgery evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.job_options import evaluation_options
from cli.options import (
    EXISTING_FILE,
    FOLDER,
    fill_request,
    json_option,
    output_option,
    overwrite_option,
    refuse_misuse,
    revision_option,
    running_options,
    twin_option,
)
from cli.tables.evaluation import note_gates, note_warnings, print_evaluation
from cli.terminal import note, print_json, show_progress


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--baseline", metavar="BASE", help="The model before the edit. Required.")
@revision_option
@evaluation_options
@twin_option
@click.option(
    "--heal",
    multiple=True,
    metavar="TEXT",
    help="Text that MODEL was healed on. BASE is then healed the same way, to tell the cost "
    "against it, too. Repeatable.",
)
@click.option(
    "--front",
    type=EXISTING_FILE,
    metavar="FILE",
    help="JSON of a search, to show its edits in the picture of the trade-off.",
)
@output_option("Folder for the report.  [default: NAME-evaluation]", FOLDER)
@overwrite_option
@running_options
@click.option("--no-cache", is_flag=True, help="Run the base's benchmarks again.")
@click.option(
    "--show-text",
    is_flag=True,
    help="Write the text of the passages that the report shows into a separate file.",
)
@json_option
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Measure what an edit costs and what it achieves: benchmarks, recitation, gates, one report.

    Compares every MODEL with BASE on the same documents and passages. Writes report.html,
    report.md, report.json, and lm-eval's own results. If MODEL is an exported folder, its own
    report goes there too. The exit code is 3 if a gate is missed.
    """
    if asked["baseline"] is None:
        raise click.UsageError("give --baseline, the model before the edit, to compare with")
    from evals.evaluation.request import EvaluationRequest

    request = fill_request(EvaluationRequest, asked)

    from evals.evaluation.evaluating import run_evaluation

    with refuse_misuse():
        found = run_evaluation(
            request, output, overwrite=overwrite, say=note, progress=show_progress
        )
    if found is None:
        return
    report, folder = found
    note_warnings(report)
    if as_json:
        print_json(report.to_dict())
    else:
        print_evaluation(report, folder)
    if not note_gates(report):
        raise click.exceptions.Exit(3)
