"""attn-surgery collect"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.terminal import echo, note, print_json


@click.command("collect")
@click.argument("model")
@options.several(
    "--corpus",
    "Text, or JSON, CSV, or parquet with a column text: a file, a folder, or "
    "hf:DATASET:SPLIT:COLUMN.",
    kind=options.PATH,
    required=True,
)
@options.output(
    "File to create, .jsonl. extract takes it as SAMPLES.",
    options.FILE,
    metavar="SAMPLES",
    required=True,
)
@options.overwrite
@options.revision
@options.count("--prefix-length", 32, "Tokens of a window that the model is given.")
@options.count("--suffix-length", 32, "Tokens of a window that the model must recite.")
@options.count(
    "--stride", 16, "Tokens from one window to the next. 1 finds most and takes longest."
)
@options.option(
    "--min-score",
    "X",
    "Keep windows with at least this next-token accuracy on the suffix. 1 is an exact match.",
    options.Number(0, 1, min_open=True),
    default=1.0,
    show_default=True,
)
@options.running
@options.flag("--show-text", "Also write the text of the passages, not only their tokens.")
@options.json
def command(output: Path, overwrite: bool, show_text: bool, as_json: bool, **asked: Any) -> None:
    """Find passages of a corpus that MODEL recites, and write them to a file, SAMPLES.

    The corpus may be larger than memory. After an interruption, run the same command again to
    continue. The samples hold the tokens of the passages, so treat them as private data.
    """
    if output.suffix != ".jsonl":
        raise click.BadParameter("SAMPLES must be a .jsonl file", param_hint="--output")
    from evals.jobs.collecting import CollectRequest, Cut, collect

    request = options.fill_request(CollectRequest, asked, cut=options.fill_request(Cut, asked))
    text = {"show_text": show_text, "overwrite": overwrite}
    found = collect(request, output, **text)
    if found is None:
        return
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
