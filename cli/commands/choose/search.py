"""attn-surgery search"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    Number,
    ask,
    json_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.searching import choice_options
from cli.tables.search import export_command, show_search


@click.command("search")
@click.argument("model")
@samples_option("The passages, as for extract.", required=True)
@click.option(
    "--max-extraction",
    type=Number(0, 1),
    metavar="X",
    help="Leave at most this share of the passages recovered, at the least held-out KL: 0.01.",
)
@click.option(
    "--max-loss-increase",
    type=Number(min=0, min_open=True),
    metavar="Y",
    help="Leave as few as can be, with held-out loss at most Y nats per token higher.",
)
@choice_options
@output_option("Folder to create: plan.json, search.json and a picture.  [default: NAME-search]")
@overwrite_option
@json_option
def command(
    output: Path | None,
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find the blocks and heads of MODEL whose edit meets a goal at the least cost.

    Give one goal: --max-extraction or --max-loss-increase. MODEL and SAMPLES are as for extract.
    The edit is chosen on one half of the samples and of the held-out text, and reported on the
    other. `attn-surgery export MODEL --plan DIR/plan.json` makes it.

    Interrupted, the same command goes on where it was. With a larger --max-evaluations it also goes
    on from a finished search; nothing is measured twice. The search of anything else is refused
    unless you pass --overwrite.

    Where nothing meets the goal the exit code is 1, and DIR holds what was found, without a plan.
    """
    from evals.search.request import SearchRequest

    request = ask(SearchRequest, asked)

    from evals.search.report import missed
    from evals.search.searching import search
    from surgery.hub.finding import last_name

    folder = output or Path(f"{last_name(Path(request.model.rpartition(':')[2]))}-search")
    found = search(request, folder, overwrite=overwrite, say=note, progress=progress)
    if found is None:
        return
    result, _ = found
    if result["selected"] is None:
        raise missed(result, folder)
    if as_json:
        print_json(result)
    else:
        needed = request.calibration if result["calibration"] else ()  # of what was chosen
        plan = folder / "plan.json"
        show_search(result, export_command(request.model, request.revision, plan, needed))
