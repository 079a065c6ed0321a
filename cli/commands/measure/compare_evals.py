"""attn-surgery compare-evals"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.tables import print_table
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
        print_json(
            {
                task: {name: one.model_dump(mode="json") for name, one in metrics.items()}
                for task, metrics in found.items()
            }
        )
        return
    rows = [
        (
            f"{task}, {name} (n = {one.n:,})",
            f"{one.base:.3f}",
            f"{one.edited:.3f}",
            f"{one.difference:+.3f} [{one.ci95[0]:+.3f}, {one.ci95[1]:+.3f}]",
            f"{one.verdict} ({one.test}, p = {one.p_value:.2g})",
        )
        for task, metrics in found.items()
        for name, one in metrics.items()
    ]
    print_table(
        ("", first.name, second.name, "difference [95% interval]", "verdict"), rows, words=1
    )
