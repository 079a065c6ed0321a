"""attn-surgery search"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.requests import request_command
from cli.tables.figures import print_search, write_next_commands
from cli.terminal import echo, end_first, print_json
from evals.choose.search.request import SearchRequest


@request_command("search", SearchRequest)
@click.argument("model")
@options.output(
    "Folder to create, with plan.json, search.json, and two pictures.  [default: NAME-search]"
)
@options.overwrite
@options.json
def command(request: SearchRequest, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Find the edit of MODEL, of blocks and heads, that keeps limits at the least cost.

    Give a limit: --max-extraction, --max, or both. MODEL and SAMPLES are as for extract.
    The search chooses the edit on half of the samples (--choose) and of the held-out text, and
    tests it on the others. The cost is the KL divergence from MODEL's predictions on held-out text:
    the largest of its mean, of its mean on tokens that stood earlier in the text, and of its mean
    on text that is repeated.
    With --heal, few edits are healed, the cheapest first, and the limits hold for the healed model.
    `attn-surgery export MODEL --plan DIR/plan.json` makes the edit.

    After an interruption, run the same command again to continue. If DIR holds the answer to the
    same question, that is printed. If it holds another search, the command stops, unless you pass
    --overwrite; what was measured for that one is not measured again.

    If no edit keeps the limits, the exit code is 1. DIR then holds what was found, without a plan.
    """
    from evals.choose.search.report import explain_miss
    from evals.jobs.searching import search
    from surgery.privacy import name_result

    if request.attacks.sibling is not None and "graft" not in request.attacks.max:
        raise click.UsageError("--sibling needs a limit on graft: give --max graft=X")
    folder = output or name_result(request.model, "search")
    result, _ = search(request, folder, overwrite=overwrite)
    if result.selected is None:
        end_first(explain_miss(result, request, folder))
        return
    if as_json:
        print_json(result.to_dict())
        return
    print_search(result)
    commands = write_next_commands(result, request, folder / "plan.json")
    echo(f"To make it, run: {' && '.join(commands)}")
