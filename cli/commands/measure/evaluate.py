"""attn-surgery evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.tables.evaluation import print_evaluation
from cli.terminal import print_json


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@options.option(
    "--baseline",
    "BASE",
    "The model before the edit; a Hub id, at the commit that MODEL records. Required.",
)
@options.revision
@options.evaluation
@options.twin
@options.sibling
@options.several(
    "--heal",
    "Text that MODEL was healed on. BASE is then healed the same way, to tell the cost against it, "
    "too.",
    metavar="TEXT",
)
@options.option(
    "--front",
    "FILE",
    "JSON of a search, to show its edits in the picture of the trade-off.",
    options.EXISTING_FILE,
)
@options.output("Folder for the report.  [default: NAME-evaluation]", options.FOLDER)
@options.overwrite
@options.running
@options.flag("--no-cache", "Run the base's benchmarks again.")
@options.flag(
    "--show-text", "Write the text of the passages that the report shows into a separate file."
)
@options.json
def command(
    output: Path | None, overwrite: bool, allow_undecided: bool, as_json: bool, **asked: Any
) -> None:
    """Measure what an edit costs and what it achieves: benchmarks, recitation, gates, one report.

    Compares every MODEL with BASE on the same documents and passages. Writes report.html,
    report.md, report.json, and lm-eval's own results. If MODEL is a folder that was exported from
    BASE, its own report goes there, too, unless benchmarks were measured in part (--limit, --suite
    quick), or it has a report and you do not pass --overwrite. The exit code is 3 if a gate is
    missed, and else 4 if one is not decided.
    """
    if asked["baseline"] is None:
        raise click.UsageError("give --baseline, the model before the edit, to compare with")
    from evals.report.request import EvaluationRequest

    request = options.fill_request(EvaluationRequest, asked)

    from evals.jobs.evaluating import run_evaluation

    found = run_evaluation(request, output, overwrite=overwrite)
    if found is None:
        return
    report, folder = found
    if as_json:
        print_json(report.to_dict())
    state = print_evaluation(report, folder, table=not as_json)
    options.end_with(state, allow_undecided=allow_undecided)
