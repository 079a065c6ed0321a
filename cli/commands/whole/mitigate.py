"""attn-surgery mitigate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import options
from cli.config import config_option, set_defaults
from cli.requests import request_command
from cli.tables import print_table
from cli.tables.figures import print_report, print_results, print_search
from cli.terminal import echo, note, print_json
from evals.jobs.mitigating import MitigationRequest

if TYPE_CHECKING:
    from evals.choose.search.report import SearchResult

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "grain": "blocks",
        "max_evaluations": 16,
        "attack": ("cheap", "relearn"),
        "limit": 100,
    },
    "thorough": {"grain": "mixed", "max_evaluations": 256, "attack": ("all",)},
}
"""Preset → values of other options."""


_ERASE = "--erase also tries results that were erased before the cut"
_TRIED = "more blocks, heads, or edits may help: --preset thorough"


def _apply_preset(ctx: click.Context, param: click.Parameter, name: str | None) -> None:
    """Makes the values of a preset the defaults of the options. Those of a file come first."""
    if name is not None:
        set_defaults(ctx, PRESETS[name])


def _describe_preset(name: str) -> str:
    """As a file says it."""
    given = PRESETS[name].items()
    shown = {key: f"[{', '.join(v)}]" if isinstance(v, tuple) else v for key, v in given}
    return ", ".join(f"{key.replace('_', '-')}: {value}" for key, value in shown.items())


@request_command("mitigate", MitigationRequest)
@click.argument("model", required=False)
@options.allow_undecided
@click.option(
    "--preset",
    type=options.OneOf(list(PRESETS)),
    is_eager=True,
    expose_value=False,
    callback=_apply_preset,
    help="Values for other options and keys of --config, which you can still give. quick: "
    f"{_describe_preset('quick')}. thorough: {_describe_preset('thorough')}.",
)
@options.flag(
    "--no-benchmarks",
    "Run no benchmark tasks. Otherwise, without --tasks, a lab model runs those of the suite lab, "
    "and any other model those of standard.",
    "suite",
    flag_value="none",
    group="measure",
)
@options.flag(
    "--dry-run",
    "Only open every input, and say what would be done.",
)
@options.output("Folder to create.", metavar="OUT", required=True)
@config_option("--recipe")
@options.overwrite
@options.json
def command(
    request: MitigationRequest,
    output: Path,
    dry_run: bool,
    overwrite: bool,
    allow_undecided: bool,
    as_json: bool,
) -> None:
    """Reduce what MODEL recites: search, export, verify, attack, and evaluate in one command.

    Searches for the cut that keeps --max-extraction and every --max at the least cost (into
    OUT-search). Makes it (OUT-cut), verifies it, and attacks it. When all is done, OUT-cut
    becomes OUT, with report, card, and recipe. To continue a run, give the same command again.

    With --heal, the cut is also trained on other text (OUT-cut-heal). With --erase, MODEL is first
    taught to predict the passages as one that does not know them (OUT-erase-WAY); that result is
    also cut, and, with --heal, healed, and cut and healed. Search and training take half of the
    passages. Half of the rest choose among the results: of those with the best verdict, the one
    that exceeds the limits least, and then the cheapest. The other half judge that one, which
    becomes OUT. The others stay.

    A lab model (lab:pythia, lab:gpt-neo) needs no other option than --output. Any other MODEL needs
    --samples and --heldout. The exit code is 3 if a limit is missed, else 4 if one is not decided,
    often because too few passages were held back. In both cases, OUT holds the best result.
    """
    from surgery.hub.finding import find_outline

    find_outline(request.model, request.revision)  # before the imports, which take seconds
    from evals.jobs.mitigating import open_mitigation

    def show_search(result: SearchResult) -> None:
        if result.selected is not None and not as_json:
            print_search(result)

    opened = open_mitigation(request, output, overwrite=overwrite)
    if dry_run:
        from evals.jobs.telling import tell

        told = tell(opened)
        print_json(told) if as_json else _print_told(told)
        return
    done = opened.run(show_search)
    print_report(done.report, output, table=not as_json)
    if as_json:
        print_json(done.to_dict())
    elif len(done.recipes) > 1:
        print_results(done.choosing, done.recipes, done.places, *done.counts)
    note(f"to see what it writes: {done.compare_command}")
    if done.state == "missed":
        note(f"{output}: a limit is missed: see report.html there")
        note(_TRIED if request.erase else _ERASE)
    options.end_with(done.state, allow_undecided=allow_undecided)
    if done.next_command is not None:
        note(f"next: {done.next_command}")


def _print_told(told: dict[str, Any]) -> None:
    """Prints the object of `mitigate --dry-run --json`."""
    echo("Nothing is written. Every input opens:")
    for one in told["inputs"]:
        echo(f"  {one['name']}: {one['what']}")
    echo("What would be done:")
    print_table(("step", "what"), [(one["name"], one["what"]) for one in told["steps"]], words=2)
