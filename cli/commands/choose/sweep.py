"""attn-surgery sweep"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.job_options import task_options
from cli.options import (
    calibration_option,
    corpus_option,
    fill_request,
    json_option,
    measuring_options,
    output_option,
    overwrite_option,
    samples_option,
)
from cli.tables.sweep import print_sweep
from cli.terminal import note, print_json, show_progress
from surgery.variants import VARIANTS


@click.command("sweep")
@click.argument("model")
@samples_option("Passages to test, as for extract.", required=True)
@corpus_option
@click.option(
    "--variant",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="What a block becomes. Repeatable.  [default: identity and zero; all with --calibration]",
)
@click.option(
    "--last/--no-last",
    default=True,
    help="Also edit the last 2, 3, … blocks together. Each takes as long as a single block.  "
    "[default: --last]",
)
@click.option("--ranges", is_flag=True, help="Also edit every contiguous range of blocks.")
@click.option("--heads", is_flag=True, help="Also edit every head alone.")
@calibration_option
@click.option(
    "--exact-only",
    is_flag=True,
    help="Measure only which passages are recited. This is much faster: a passage ends at its "
    "first wrong token, and no held-out text is read. Tasks still run.",
)
@task_options("no tasks", "none")
@measuring_options
@click.option(
    "--bounds",
    is_flag=True,
    help="Also bound how much each block's attention adds by mixing tokens, and follow each edit "
    "through the later blocks.",
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Also estimate the effect of editing every head and every block, from a few passes over "
    "the text. A lab model is then swept in all variants, unless you name some.",
)
@output_option(
    "Folder to create, with sweep.json, sweep.csv, and pictures. After an interruption, run the "
    "same command again to continue."
)
@overwrite_option
@json_option
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Measure how editing each block of MODEL changes what it recites and its held-out loss.

    Edits every block alone and the last k blocks together, in every variant. MODEL and SAMPLES are
    as for extract. With --tasks or --suite, every edit also runs on lm-eval's benchmarks. Nothing
    is exported. The figures equal those of extract and lm_eval for the exported models.
    """
    from evals.sweep.request import SweepRequest

    request = fill_request(SweepRequest, asked)

    from evals.sweep.sweeping import sweep

    result = sweep(request, output, overwrite=overwrite, say=note, progress=show_progress)
    if result is None:
        return
    if as_json:
        print_json(result)
    else:
        print_sweep(result)
