"""attn-surgery sweep"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.requests import request_command
from cli.tables.figures import print_sweep
from cli.terminal import print_json
from evals.choose.sweep.request import SweepRequest


@request_command("sweep", SweepRequest)
@click.argument("model")
@options.output(
    "Folder to create, with sweep.json, sweep.csv, and pictures. After an interruption, run the "
    "same command again to continue."
)
@options.overwrite
@options.json
def command(request: SweepRequest, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Measure how editing each block of MODEL changes what it recites and its held-out loss.

    Edits every block alone and the last k blocks together, in each variant (--variant). MODEL and
    SAMPLES are as for extract. With --tasks or --suite, every edit also runs on lm-eval's
    benchmarks. Nothing is exported. The figures equal those of extract and lm_eval for the exported
    models. A line names the edit with the least loss of those that leave at most 1 % recited, or
    else the one that leaves the fewest. sweep.json has intervals.
    """
    from evals.jobs.sweeping import sweep

    result = sweep(request, output, overwrite=overwrite)
    if as_json:
        print_json(result.to_dict())
    else:
        print_sweep(result)
