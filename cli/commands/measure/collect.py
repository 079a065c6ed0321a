"""attn-surgery collect"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from cli.options import (
    FILE,
    PATH,
    Number,
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
from evals.inputs import open_model


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
def command(
    model: str,
    corpora: tuple[Path, ...],
    output: Path,
    overwrite: bool,
    revision: str | None,
    prefix_length: int,
    suffix_length: int,
    stride: int,
    min_score: float,
    show_text: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find the passages of a corpus that the MODEL recites, and write them as SAMPLES.

    The corpus may be larger than memory. A run that was interrupted goes on where it was when it is
    started again. The samples hold the passages' tokens: treat them as the private data they are.
    """
    if output.suffix != ".jsonl":
        raise click.BadParameter("SAMPLES must be a .jsonl file", param_hint="--output")
    from evals.memorization.collecting import Cut, collect
    from evals.running.processes import Processes
    from evals.running.request import Running
    from surgery.output import check_output
    from surgery.reading.corpus import open_corpus

    check_output(output, overwrite=overwrite)
    cut = Cut(prefix_length, suffix_length, stride, min_score)
    cut.check()
    running = Running.of(asked)
    corpus = open_corpus(corpora)
    processes = Processes.launched(say=note)
    loaded = open_model(model, running, processes, revision, say=note)
    begun = time.perf_counter()
    with progress(f"collect {model}: tokens", None) as advance:
        found = collect(
            loaded.model,
            loaded.tokenizer,
            corpus,
            output,
            cut,
            settings=lambda: {**loaded.identity, "dtype": loaded.dtype},
            text=show_text,
            overwrite=overwrite,
            batch_size=running.batch_size,
            processes=processes,
            advance=advance,
            check=loaded.check_unchanged,
        )
    seconds = time.perf_counter() - begun
    if not processes.is_main:
        return
    if found.resumed:
        note("an earlier run was taken up where it was")
    if as_json:
        print_json(
            {
                "output": str(output),
                "windows": found.windows,
                "recited": found.recited,
                "distinct": found.distinct,
                "tokens": found.tokens_read,
                "seconds": seconds,
                "tokens_per_second": found.tokens_read / seconds,
                "resumed": found.resumed,
            }
        )
        return
    echo(
        f"{found.windows:,} windows tested, {found.recited:,} recited, {found.distinct:,} of them "
        f"different; {found.tokens_read:,} tokens in {seconds:.1f} s "
        f"({found.tokens_read / seconds:,.0f} per second)"
    )
    echo(output)
