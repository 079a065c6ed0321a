"""attn-surgery compare"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

import click

from cli import options
from cli.requests import request_command
from cli.terminal import name_options, note, print_json
from evals.jobs.comparing import CompareRequest, compare, compare_prompt, open_models
from surgery.errors import SamplesError


@request_command("compare", CompareRequest, alone=True)
@click.argument("base")
@click.argument("edited", nargs=-1, required=True)
@options.json
def command(request: CompareRequest, as_json: bool) -> None:
    """Show side by side what BASE and each EDITED model write after the same prompts.

    The models continue each prompt greedily: they always write the most likely token. Tokens that
    differ from BASE's text are colored. On a terminal, without --prompt and --samples, the command
    asks for prompts: type one a line. With --samples you see which passages changed
    most in loss, as ids and figures; --show-text adds what the models write.

    All models are in memory together. --revision is that of BASE; by default, the one
    that EDITED records.
    """
    given = request.prompt or request.passages.samples
    if not given and (as_json or not sys.stdin.isatty()):
        raise click.UsageError(
            "nothing to compare: give --prompt or --samples (on a terminal, without --json, the "
            "command asks for prompts)"
        )
    from cli.tables.comparison import print_comparison

    if given:
        result = compare(request)
        (print_json if as_json else print_comparison)(result)
        if request.passages.samples and not (request.show_text or as_json):
            note("--show-text shows the passages, and what the models write after their prefixes.")
        return
    models = open_models(request)
    note("Type a prompt. An empty line ends.")
    for prompt in _read_prompts():
        try:
            rows = [compare_prompt(models, prompt, request)]
        except SamplesError as error:  # the next prompt may fit
            note(name_options(error))
            continue
        print_comparison({"models": [loaded.name for loaded in models], "rows": rows})


def _read_prompts() -> Iterator[str]:
    """What a person types, line by line, until an empty one."""
    with suppress(ImportError):  # some builds of Python have none
        import readline  # noqa: F401  # so that the line can be edited

    try:
        while prompt := input("> ").strip():
            yield prompt
    except EOFError:
        return
