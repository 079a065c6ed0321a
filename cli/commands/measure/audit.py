"""attn-surgery audit"""

from __future__ import annotations

from pathlib import Path

from cli import options
from cli.requests import request_command
from cli.tables.figures import print_report
from cli.terminal import print_json
from evals.jobs.asking import MeasureRequest, take


@request_command("audit", MeasureRequest, **take("audit"))
@options.one_model
@options.allow_undecided
@options.rows
@options.output("Folder to create, with the report.")
@options.overwrite
@options.json
def command(
    request: MeasureRequest,
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    allow_undecided: bool,
    as_json: bool,
) -> None:
    """Measure what an attacker recovers from MODEL and, with --baseline, from BASE.

    Without --baseline, this shows which of your passages come out of MODEL, by their ids. A limit
    can then be missed, but not kept: nothing shows that an attack works.

    An exact match is brittle: a passage with one wrong token counts as forgotten. The attacks test
    whether it really is. docs/who-can-undo-it.md says what each of them assumes. The same attacks
    run on text that the models were not trained on, for comparison. The exit code is 3 if a limit
    is missed. Otherwise, it is 4 if one is not decided.

    If a search chose the edit on some of the passages, or it was taught some, the figures are for
    the others, and those of the taught ones stand apart. Results hold no text; --rows names
    passages by their ids. After an interruption, run the same command again to continue.
    """
    from evals.jobs.evaluating import list_given_away, run_measurement

    found = run_measurement(request, output, rows=rows, overwrite=overwrite)
    if as_json:
        print_json(found.report.to_dict())
    given_away = list_given_away(found) if request.baseline is None else None
    places = [output] if output is not None else []
    state = print_report(found.report, *places, table=not as_json, given_away=given_away)
    options.end_with(state, allow_undecided=allow_undecided)
