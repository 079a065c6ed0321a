"""attn-surgery evaluate"""

from __future__ import annotations

from pathlib import Path

from cli import options
from cli.requests import request_command
from cli.tables.figures import print_report
from cli.terminal import print_json
from evals.jobs.asking import MeasureRequest, take


@request_command("evaluate", MeasureRequest, **take("evaluate"))
@options.one_model
@options.allow_undecided
@options.output("Folder for the report.  [default: NAME-evaluation]", options.FOLDER)
@options.overwrite
@options.json
def command(
    request: MeasureRequest,
    output: Path | None,
    overwrite: bool,
    allow_undecided: bool,
    as_json: bool,
) -> None:
    """Measure what an edit costs and what it achieves: benchmarks, recitation, limits, one report.

    Compares MODEL with BASE on the same documents and passages. Writes report.html,
    report.md, report.json, and lm-eval's own results. If MODEL is a folder that was exported from
    BASE, its own report goes there, too, unless benchmarks were measured in part (the key limit, or
    --suite quick), or it has a report and you do not pass --overwrite. The exit code is 3 if a
    limit is missed. Otherwise, it is 4 if one is not decided.
    """
    from evals.jobs.evaluating import run_measurement
    from surgery.privacy import name_result

    folder = output or name_result(request.models[0], "evaluation")
    found = run_measurement(request, folder, overwrite=overwrite)
    if as_json:
        print_json(found.report.to_dict())
    state = print_report(found.report, folder, table=not as_json)
    options.end_with(state, allow_undecided=allow_undecided)
