"""attn-surgery heal"""

from __future__ import annotations

import click
from rich.filesize import decimal

from cli import options
from cli.requests import request_command
from cli.terminal import echo, note_unmeasured, print_json
from evals.jobs.healing import HealRequest, open_heal


@request_command("heal", HealRequest)
@click.argument("model")
@options.overwrite
@options.json
def command(request: HealRequest, as_json: bool) -> None:
    """Train MODEL, which `export` cut, on other text, to win back what the cut cost.

    On this text, MODEL learns to predict what the model before all cuts predicts. What the cut set
    stays as it is. On the passages, if there are any, MODEL keeps its own predictions, so that
    they do not come back. Healing can still bring back a part of what the model recited: measure
    the result, with hints too.
    """
    opened = open_heal(request)
    opened.lessons.say_which()
    export = opened.run()
    result = export.to_json()
    if as_json:
        print_json(result)
        return
    steps = f"healed in {result['healing']['steps']} steps"
    echo(f"{export.output}: {steps}, {decimal(result['bytes'])}")
    note_unmeasured(export.output, opened.prepared.model, request.passages.samples)
