"""attn-surgery extract"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    Number,
    ask,
    control_option,
    json_option,
    measuring_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.tables.extraction import print_extraction


@click.command("extract")
@click.argument("model")
@samples_option("The passages to test: see below.", required=True)
@click.option("--baseline", metavar="MODEL", help="The unedited model: compare on the same rows.")
@click.option(
    "--metrics",
    type=click.Choice(["exact", "full"]),
    default="exact",
    show_default=True,
    help="exact: one pass, no decoding. full: also near matches, free-running scores, entropy, "
    "probabilistic extraction and min-k++.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="Sampling scheme of probabilistic extraction.",
)
@click.option(
    "--temperature",
    type=Number(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Sampling temperature, likewise.",
)
@control_option(
    "Text the model was not trained on, as for collect, measured beside the samples; may be "
    "repeated.  [default: a lab model's own, or the samples' non-members]"
)
@measuring_options
@click.option("--rows", type=FILE, metavar="FILE", help="Also write one JSON line a row.")
@output_option("Also write the JSON object.", FILE, metavar="FILE")
@overwrite_option
@click.option("--show-text", is_flag=True, help="Put the passages' text into the rows.")
@json_option
def command(
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    show_text: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Test which of SAMPLES the MODEL recites: it is given each prefix, and must say the suffix.

    MODEL is a folder, a Hub id, or an embedded model (lab:pythia, lab:gpt-neo). SAMPLES is
    FILE.npy (token ids), PREFIX.npy,SUFFIX.npy, a .jsonl, .json, .csv, .tsv or .parquet file
    (tokens, or prefix and suffix, or text; optionally id, count, member), a .txt file (one passage
    a line), a folder of these, hf:DATASET:SPLIT:COLUMN, or lab:pythia or lab:gpt-neo.

    Where a search chose the edit on some of the passages, the figures are of the others.

    Runs on many processes under `accelerate launch`, with the same result. Results hold ids,
    scores and hashes, and no text unless asked for.
    """
    if rows is not None and rows == output:
        raise click.UsageError("--rows and --output name the same file")

    from evals.memorization.request import ExtractionRequest

    request = ask(ExtractionRequest, asked)

    from evals.memorization.comparison import run_extraction

    result = run_extraction(
        request,
        rows_file=rows,
        output=output,
        overwrite=overwrite,
        show_text=show_text,
        say=note,
        progress=progress,
    )
    if result is not None:
        (print_json if as_json else print_extraction)(result)
