"""attn-surgery mitigate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.config import config_option
from cli.job_options import choice_options, drop_option, gated_task_options
from cli.options import (
    Number,
    attack_option,
    fill_request,
    json_option,
    max_option,
    output_option,
    overwrite_option,
    refuse_misuse,
    samples_option,
)
from cli.terminal import note, print_json, show_progress


@click.command("mitigate")
@click.argument("model", required=False)
@samples_option(
    "Passages that must not be recovered, as for extract.  [default: a lab model's own]"
)
@click.option(
    "--max-extraction",
    type=Number(0, 1),
    metavar="X",
    help="Leave at most this share of the passages recovered, by --measure.  [default: 0.01, "
    "unless --max limits the measure]",
)
@choice_options
@gated_task_options
@drop_option
@attack_option
@max_option(
    "Limit for the search, and gate: attack A may recover at most the share X of the passages. A "
    "runs even if --attack does not name it. Repeatable."
)
@output_option("Folder to create.", metavar="OUT", required=True)
@config_option("--recipe")
@overwrite_option
@json_option
def command(output: Path, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Remove what MODEL recites: search, export, verify, attack, and evaluate in one command.

    Searches for the edit that keeps --max-extraction and every --max at the least cost (into
    OUT-search). Exports it to OUT, verifies it, and attacks it. Report, model card, and recipe go
    into OUT. After an interruption, run the same command again to continue.

    A lab model (lab:pythia, lab:gpt-neo) needs no other option than --output. Any other MODEL needs
    --samples and --corpus. The exit code is 3 if the limit or a gate is missed. OUT then holds the
    best edit that was found.
    """
    from evals.mitigating import MitigationRequest, mitigate

    request = fill_request(MitigationRequest, asked)

    from cli.tables.evaluation import note_gates, note_warnings, print_evaluation
    from cli.tables.search import export_command, print_search

    def show_search(result: dict[str, Any], folder: Path) -> None:
        if result["selected"] is not None and not as_json:
            plan = folder / "plan.json"
            texts = request.calibration
            print_search(result, export_command(request.model, request.revision, plan, texts))

    with refuse_misuse():
        done = mitigate(
            request,
            output,
            overwrite=overwrite,
            say=note,
            progress=show_progress,
            show_search=show_search,
        )
    if done is None:
        return
    note_warnings(done.report)
    note_gates(done.report)
    if as_json:
        print_json(done.to_dict())
    else:
        print_evaluation(done.report, output)
    if not done.passed:
        note(f"{output}: a limit is missed: see report.html there")
        raise click.exceptions.Exit(3)
    if done.next_command is not None:
        note(f"next: {done.next_command}")
