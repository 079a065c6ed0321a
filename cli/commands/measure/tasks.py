"""attn-surgery tasks"""

from __future__ import annotations

import click

from cli.terminal import echo


@click.command("tasks")
def command() -> None:
    """Print the folder of lm-eval task files, for lm_eval --include_path."""
    from evals.run.lm_eval.tasks import INCLUDE_PATH

    echo(INCLUDE_PATH)
