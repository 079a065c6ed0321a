"""attn-surgery erase"""

from __future__ import annotations

import click
from rich.filesize import decimal

from cli import options
from cli.requests import request_command
from cli.terminal import echo, note_unmeasured, print_json
from evals.jobs.erasing import EraseRequest, run_erase


@request_command("erase", EraseRequest)
@click.argument("model")
@options.overwrite
@options.json
def command(request: EraseRequest, as_json: bool) -> None:
    """Teach MODEL to forget passages, with its own cut as the teacher.

    A model without attention in well-chosen blocks (a cut) still predicts ordinary text, but
    recites few or none of the passages. On the passages, MODEL learns to predict what its cut
    predicts. On other text, it keeps its own predictions. All attention stays in place, and the
    model pays only a part of what the cut costs.

    MODEL learns this only for the listed passages. To act on passages that you cannot list, too,
    cut the result with `export`.
    """
    export = run_erase(request)
    assert export is not None
    result = export.to_json()
    if as_json:
        print_json(result)
        return
    erasing = result["erasing"]
    echo(
        f"{export.output}: {erasing['passages']['number']:,} passages erased in "
        f"{erasing['steps']} steps, {decimal(result['bytes'])}"
    )
    note_unmeasured(export.output, request.model)
