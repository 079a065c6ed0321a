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
    help="Leave at most this share of the passages recovered (0.01 is 1 %), at the least KL.",
)
@click.option(
    "--max-loss-increase",
    type=Number(min=0, min_open=True),
    metavar="Y",
    help="Raise held-out loss by at most Y nats per token, and leave as few passages as possible.",
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
    One half of the samples and of the held-out text chooses the edit, the other half tests it.
    `attn-surgery export MODEL --plan DIR/plan.json` makes it.

    An interrupted search continues when you run the same command again. With a larger
    --max-evaluations, so does a finished one. Nothing is measured twice. If DIR holds the search of
    anything else, the command stops, unless you pass --overwrite.

    If nothing meets the goal, the exit code is 1, and DIR holds what was found, without a plan.
    """
    from evals.search.request import SearchRequest

    request = ask(SearchRequest, asked)

    from evals.search.report import explain_miss
    from evals.search.searching import search
    from surgery.hub.finding import last_name

    folder = output or Path(f"{last_name(Path(request.model.rpartition(':')[2]))}-search")
    found = search(request, folder, overwrite=overwrite, say=note, progress=progress)
    if found is None:
        return
    result, _ = found
    if result["selected"] is None:
        raise explain_miss(result, folder)
    if as_json:
        print_json(result)
    else:
        needed = request.calibration if result["calibration"] else ()  # of what was chosen
        plan = folder / "plan.json"
        show_search(result, export_command(request.model, request.revision, plan, needed))
