"""attn-surgery erase"""

from __future__ import annotations

import click
from rich.filesize import decimal

from cli import options
from cli.requests import request_command
from cli.terminal import echo, note, note_unmeasured, print_json
from evals.jobs.erasing import EraseRequest, open_erase


@request_command("erase", EraseRequest)
@click.argument("model")
@options.overwrite
@options.json
def command(request: EraseRequest, as_json: bool) -> None:
    """Train MODEL not to recite listed passages, in one of several ways (--by).

    On the passages, MODEL learns to predict what a teacher predicts: MODEL without attention in
    some blocks (a cut), MODEL with a short context, or another model that never saw the passages.
    On other text, and on the records of --never, MODEL keeps its own predictions. All attention
    stays in place.

    If a public base exists, it is the best teacher. Without --by and a cut, a short look at the
    passages chooses between a context of 8 tokens and a cut, and says why.

    MODEL learns this only for the listed passages, and also predicts new text of their form worse.
    Whoever fine-tunes it may bring passages back: audit the result. To hide passages that you
    cannot list from those who only ask the model, cut the result with `export`, too.

    With --as-adapter, DIR holds no model, but the adapters that were trained, as peft saves them.
    They load on MODEL, and on no other model.
    """
    opened = open_erase(request)
    opened.lessons.say_which()
    export = opened.run()
    result = export.to_json()
    if as_json:
        print_json(result)
        return
    erasing = result["erasing"]
    echo(
        f"{export.output}: {erasing['passages']['number']:,} passages taught in "
        f"{erasing['steps']} steps, {decimal(result['bytes'])}"
    )
    if request.as_adapter:
        note(
            f"An adapter, for peft: PeftModel.from_pretrained(model, {str(export.output)!r}). To "
            "measure a result here, erase without `as_adapter`"
        )
        return
    note_unmeasured(export.output, opened.prepared.model, request.passages.samples)
