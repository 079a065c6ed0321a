"""attn-surgery collect"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.requests import request_command
from cli.terminal import echo, note, print_json
from evals.jobs.collecting import CollectRequest, collect


@request_command("collect", CollectRequest)
@click.argument("model")
@options.output(
    "File to create, .jsonl. extract takes it as SAMPLES.",
    options.FILE,
    metavar="SAMPLES",
    required=True,
)
@options.overwrite
@options.flag(
    "--show-text", "Also write the text of the passages, not only their tokens.", group="output"
)
@options.json
def command(
    request: CollectRequest,
    output: Path,
    overwrite: bool,
    show_text: bool,
    as_json: bool,
) -> None:
    """Find passages of a corpus that MODEL recites, and write them to a file, SAMPLES.

    The corpus may be larger than memory. After an interruption, run the same command again to
    continue. The samples hold the tokens of the passages, so treat them as private data.
    """
    if output.suffix != ".jsonl":
        raise click.BadParameter("SAMPLES must be a .jsonl file", param_hint="--output")
    text = {"show_text": show_text, "overwrite": overwrite}
    found = collect(request, output, **text)
    if found["resumed"]:
        note("continued an earlier run")
    if as_json:
        print_json(found)
        return
    echo(
        "{windows:,} windows tested, {recited:,} recited ({distinct:,} distinct); {tokens:,} "
        "tokens in {seconds:.1f} s ({tokens_per_second:,.0f} per second)".format(**found)
    )
    echo(output)
