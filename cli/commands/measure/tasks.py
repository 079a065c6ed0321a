"""attn-surgery tasks"""

from __future__ import annotations

import click

from cli import options
from cli.terminal import echo, note, print_json


@click.command("tasks")
@options.json
def command(as_json: bool) -> None:
    """Print the folder of lm-eval task files, for lm_eval --include_path, and name the tasks.

    The folder is on stdout; the tasks, each with what it asks, are on stderr. Give their names to
    --tasks of evaluate, sweep, and search, or of lm_eval.
    """
    from evals.run.lm_eval.tasks import INCLUDE_PATH, list_own_tasks

    tasks = list_own_tasks()
    if as_json:
        print_json({"folder": str(INCLUDE_PATH), "tasks": tasks})
        return
    echo(INCLUDE_PATH)
    for name, asked in tasks.items():
        note(f"{name}: {asked}")
