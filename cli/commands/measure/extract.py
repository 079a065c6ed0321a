"""attn-surgery extract"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    Number,
    control_option,
    fill_request,
    json_option,
    measuring_options,
    output_option,
    overwrite_option,
    samples_option,
)
from cli.tables.extraction import print_extraction
from cli.terminal import note, print_json, show_progress


@click.command("extract")
@click.argument("model")
@samples_option("Passages to test. The forms are listed above.", required=True)
@click.option(
    "--baseline", metavar="MODEL", help="The unedited model, to compare with on the same rows."
)
@click.option(
    "--metrics",
    type=click.Choice(["exact", "full"]),
    default="exact",
    show_default=True,
    help="exact: one pass and no decoding. full: also near matches, free-running scores, entropy, "
    "probabilistic extraction, and min-k++.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="With --metrics full: the k of top-k sampling in probabilistic extraction.",
)
@click.option(
    "--temperature",
    type=Number(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="With --metrics full: the temperature of that sampling.",
)
@control_option("a lab model's own, or the samples' non-members")
@measuring_options
@click.option(
    "--rows",
    type=FILE,
    metavar="FILE",
    help="Also write one JSON line for each passage to this file.",
)
@output_option("Also write the JSON object to this file.", FILE, metavar="FILE")
@overwrite_option
@click.option(
    "--show-text", is_flag=True, help="Also write the text of the passages into the rows."
)
@json_option
def command(
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    show_text: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Test which of SAMPLES MODEL recites: it gets each prefix and must complete the suffix.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). SAMPLES is one of: a
    .npy file of token ids; PREFIX.npy,SUFFIX.npy; a .jsonl, .json, .csv, .tsv, or .parquet file
    with columns tokens, or prefix and suffix, or text (optional: id, count, member); a .txt file
    with one passage a line; a folder of these; hf:DATASET:SPLIT:COLUMN; lab:pythia or lab:gpt-neo.

    If a search chose the edit on some of the passages, the figures are for the others.

    Under `accelerate launch`, several processes share the work, with the same result. Results hold
    ids, scores, and hashes, and text only if you pass --show-text.
    """
    if rows is not None and rows == output:
        raise click.UsageError("--rows and --output name the same file")

    from evals.memorization.request import ExtractionRequest

    request = fill_request(ExtractionRequest, asked)

    from evals.memorization.comparison import run_extraction

    result = run_extraction(
        request,
        rows_file=rows,
        output=output,
        overwrite=overwrite,
        show_text=show_text,
        say=note,
        progress=show_progress,
    )
    if result is not None:
        (print_json if as_json else print_extraction)(result)
