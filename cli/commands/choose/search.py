"""attn-surgery search"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.tables.search import print_search, write_next_command
from cli.terminal import echo, print_json


@click.command("search")
@click.argument("model")
@options.samples("Passages that must not be recovered, as for extract.", required=True)
@options.option(
    "--max-extraction",
    "X",
    "Goal: leave at most this share of the passages recovered (0.01 is 1 %), at the least "
    "cost. Short for --max M=X, with M from --measure.",
    options.SHARE,
)
@options.max_recovered(
    "Goal: leave at most the share X of the passages to attack A, any attack of audit but "
    "membership, at the least cost. Every limit must hold. Attacks that need more than "
    "one pass (graft, relearn, near…) are tried on few edits, the cheapest first."
)
@options.sibling
@options.option(
    "--max-loss-increase",
    "Y",
    "Goal: leave as few passages recovered as possible, and raise held-out loss by at most Y "
    "nats per token.",
    options.POSITIVE,
)
@options.choosing
@options.heal
@options.output(
    "Folder to create, with plan.json, search.json, and two pictures.  [default: NAME-search]"
)
@options.overwrite
@options.json
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Find the edit of MODEL, of blocks and heads, that meets a goal at the least cost.

    Give one goal: --max-extraction, --max, or both; or --max-loss-increase. MODEL and SAMPLES are
    as for extract.
    The search chooses the edit on one half of the samples and of the held-out text, and tests it
    on the other half. The cost is the KL divergence from MODEL's predictions on held-out text.
    With --heal, few edits are healed, the cheapest first, and the limits hold for the healed model.
    `attn-surgery export MODEL --plan DIR/plan.json` makes the edit.

    After an interruption, run the same command again to continue. With a larger --max-evaluations,
    a finished search continues, too. If DIR holds another search, the
    command stops, unless you pass --overwrite.

    If no edit meets the goal, the exit code is 1. DIR then holds what was found, without a plan.
    """
    from evals.choose.search.request import SearchRequest

    request = options.fill_request(SearchRequest, asked)

    from evals.jobs.searching import search
    from evals.report.search import explain_miss
    from surgery.privacy import get_last_name

    folder = output or Path(f"{get_last_name(Path(request.model.rpartition(':')[2]))}-search")
    found = search(request, folder, overwrite=overwrite)
    if found is None:
        return
    result, _ = found
    if result["selected"] is None:
        raise explain_miss(result, folder)
    if as_json:
        print_json(result)
        return
    print_search(result)
    echo(f"To export it, run: {write_next_command(result, request, folder / 'plan.json')}")
