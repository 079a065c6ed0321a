"""attn-surgery sweep"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.evaluating import task_options
from cli.options import (
    ask,
    calibration_option,
    corpus_option,
    json_option,
    measuring_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.tables.sweep import show_sweep
from surgery.variants import VARIANTS


@click.command("sweep")
@click.argument("model")
@samples_option("The passages, as for extract.", required=True)
@corpus_option
@click.option(
    "--variant",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="What a block becomes; may be repeated.  [default: identity and zero; all with "
    "--calibration]",
)
@click.option(
    "--last/--no-last",
    default=True,
    help="Also edit the last 2, 3, … blocks together.  [default: yes; each costs as much as a "
    "block]",
)
@click.option("--ranges", is_flag=True, help="Also edit every contiguous range of blocks.")
@click.option("--heads", is_flag=True, help="Also edit every head alone.")
@calibration_option
@click.option(
    "--exact-only",
    is_flag=True,
    help="Measure only which passages are recited. Much faster: a passage ends at its first wrong "
    "token, and no held-out text is read. Tasks still run.",
)
@task_options("no tasks", "none")
@measuring_options
@click.option(
    "--bounds",
    is_flag=True,
    help="Also bound what each block's attention adds by mixing tokens, and follow each edit "
    "through the later blocks.",
)
@click.option(
    "--estimate",
    is_flag=True,
    help="Also estimate what editing every head and every block would do, from a few passes over "
    "the text. A lab model is then swept in all variants, unless you name some.",
)
@output_option(
    "Folder to create: sweep.json, sweep.csv, and pictures. A run that was killed continues where "
    "it was."
)
@overwrite_option
@json_option
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Measure what editing each block of MODEL does: to what it recites, and to held-out text.

    Every block alone and the last k blocks together, in every variant. MODEL and SAMPLES are as for
    extract. With --tasks or --suite, every edit also runs on lm-eval's benchmarks. Nothing is
    exported; the figures are those that extract and lm_eval give for the exported models.
    """
    from evals.sweep.request import SweepRequest

    request = ask(SweepRequest, asked, include_path=asked["include_paths"])

    from evals.sweep.sweeping import sweep

    result = sweep(request, output, overwrite=overwrite, say=note, progress=progress)
    if result is None:
        return
    if as_json:
        print_json(result)
    else:
        show_sweep(result)
