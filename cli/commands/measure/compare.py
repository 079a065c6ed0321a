"""attn-surgery compare"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from cli import options
from cli.terminal import note, print_json


@click.command("compare")
@click.argument("base")
@click.argument("edited", nargs=-1, required=True)
@options.several("--prompt", "Text to continue.", metavar="T")
@options.option(
    "--prompts", "FILE", "File of prompts: one a line, or a table with a column text.", options.PATH
)
@options.samples("Passages, as for extract, of which those that changed most are shown.")
@options.count("--rows", 10, "With --samples: how many passages to show.")
@options.count("--max-new-tokens", 50, "Tokens to write after a prompt.")
@options.count("--sample", 0, "Also draw N texts at random, the same way for each model.")
@options.count("--seed", 0, "Decides what is drawn.")
@options.flag(
    "--probabilities", "Also show how likely each model finds every token of BASE's text."
)
@options.measuring
@options.flag("--show-text", "With --samples: show the texts, too.")
@options.json
def command(as_json: bool, **asked: Any) -> None:
    """Show side by side what BASE and each EDITED model write after the same prompts.

    The models continue each prompt greedily: they always write the most likely token. Tokens that
    differ from BASE's text are colored. On a terminal, without --prompt, --prompts, and --samples,
    you type the prompts. With --samples you see which passages changed most in loss, as ids and
    figures.

    All models are in memory together. --revision is that of BASE; by default, the one
    that EDITED records.
    """
    given = any(asked[name] for name in ("prompt", "prompts", "samples"))
    if not given and (as_json or not sys.stdin.isatty()):
        raise click.UsageError("nothing to compare: give --prompt, --prompts, or --samples")
    from evals.jobs.comparing import CompareRequest

    request = options.fill_request(CompareRequest, asked)

    from cli.tables.comparison import print_comparison
    from evals.jobs.comparing import compare, compare_prompt, open_models

    if given:
        result = compare(request)
        (print_json if as_json else print_comparison)(result)
        return
    models = open_models(request)
    note("Type a prompt. An empty line ends.")
    for prompt in _read_prompts():
        rows = [compare_prompt(models, prompt, request)]
        print_comparison({"models": [loaded.name for loaded in models], "rows": rows})


def _read_prompts() -> Iterator[str]:
    """What a person types, line by line, until an empty one."""
    import readline  # noqa: F401  # so that the line can be edited

    try:
        while prompt := input("> ").strip():
            yield prompt
    except EOFError:
        return
