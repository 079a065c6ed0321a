"""attn-surgery collect"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    PATH,
    Number,
    ask,
    count_option,
    echo,
    json_option,
    note,
    output_option,
    overwrite_option,
    print_json,
    revision_option,
    running_options,
)
from cli.progress import progress


@click.command("collect")
@click.argument("model")
@click.option(
    "--corpus",
    "corpora",
    required=True,
    multiple=True,
    type=PATH,
    metavar="FILE",
    help="Text, JSON, CSV or parquet (column text), a folder, or "
    "hf:DATASET:SPLIT:COLUMN; may be repeated.",
)
@output_option(
    "The .jsonl file to write, as samples for extract.", FILE, metavar="SAMPLES", required=True
)
@overwrite_option
@revision_option
@count_option("--prefix-length", 32, "Tokens of a window that the model is given.")
@count_option("--suffix-length", 32, "Tokens of a window that the model must recite.")
@count_option(
    "--stride", 16, "Tokens between the starts of windows; 1 finds most, and takes longest."
)
@click.option(
    "--min-score",
    type=Number(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    metavar="X",
    help="Keep windows of at least this next-token accuracy on the suffix; 1 is exact.",
)
@running_options
@click.option("--show-text", is_flag=True, help="Write the passages' text too, not only tokens.")
@json_option
def command(output: Path, overwrite: bool, show_text: bool, as_json: bool, **asked: Any) -> None:
    """Find the passages of a corpus that the MODEL recites, and write them as SAMPLES.

    The corpus may be larger than memory. A run that was interrupted continues where it was when
    you start it again. The samples hold the passages' tokens: treat them as the private data they
    are.
    """
    if output.suffix != ".jsonl":
        raise click.BadParameter("SAMPLES must be a .jsonl file", param_hint="--output")
    from evals.memorization.request import CollectRequest, Cut

    request = ask(CollectRequest, asked, cut=ask(Cut, asked))

    from evals.memorization.collecting import collect_from

    text = {"show_text": show_text, "overwrite": overwrite}
    found = collect_from(request, output, **text, say=note, progress=progress)
    if found is None:
        return
    if found.resumed:
        note("an earlier run was taken up where it was")
    if as_json:
        print_json(found.to_dict(output))
        return
    echo(
        f"{found.windows:,} windows tested, {found.recited:,} recited, {found.distinct:,} of them "
        f"different; {found.tokens:,} tokens in {found.seconds:.1f} s "
        f"({found.tokens / found.seconds:,.0f} per second)"
    )
    echo(output)
