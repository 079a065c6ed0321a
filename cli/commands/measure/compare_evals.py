"""attn-surgery compare-evals"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.tables.figures import print_comparison
from cli.terminal import print_json


@click.command("compare-evals")
@click.argument("first", type=options.PATH)
@click.argument("second", type=options.PATH)
@options.json
def command(first: Path, second: Path, as_json: bool) -> None:
    """Compare two runs of lm-eval, FIRST and SECOND, document by document.

    Both are folders that lm_eval wrote with --output_path and --log_samples. Both models answered
    the same documents, so the comparison is paired: McNemar's test for yes/no scores, Wilcoxon's
    for others, with a 95 % interval of the difference, SECOND minus FIRST.
    """
    from evals.jobs.comparing_logs import compare_logs

    found = compare_logs(first, second)
    if as_json:
        print_json({"figures": [one.model_dump(mode="json") for one in found]})
    else:
        print_comparison(found, first.name, second.name)
