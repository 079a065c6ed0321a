"""attn-surgery init"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.config import is_of_result
from cli.requests import request_command
from cli.tables import print_table
from cli.tables.cuts import print_cuts
from cli.terminal import echo, note, print_json
from evals.jobs.proposing import SOUND, Proposal, ProposalRequest, propose
from surgery.lab import find_lab

_ASKED = {
    "model": "Model to edit (a folder or a Hub id)",
    "samples": "Passages that it must not recite (a file)",
    "heldout": "Held-out text, which it was not trained on (a file)",
}
"""What a terminal is asked for."""
_COUNTS = {
    "usable": "usable",
    "too_short": "too short",
    "duplicates": "duplicates",
    "overlapping": "overlapping, kept",
    "members": "members",
    "independent": "members that do not overlap",
    "non_members": "non-members",
}
_MOST = 8
"""Row numbers to list."""


def _ask(given: dict[str, Any]) -> None:
    """Asks in a terminal for what is left out."""
    for name, question in _ASKED.items():
        needed = name != "heldout" or not given["dry_run"]
        if not given[name] and needed and sys.stdin.isatty() and not given["as_json"]:
            lab = str(given["model"]).startswith("lab:") and name != "model"
            answer = None if lab else click.prompt(question, err=True)
            given[name] = (answer,) if answer and name == "heldout" else answer
    if not given["model"]:
        raise click.UsageError("name a MODEL")


@request_command("init", ProposalRequest, prepare=_ask)
@click.argument("model", required=False)
@options.flag("--dry-run", "Print the same, and write nothing.")
@options.output(
    "File to write.", options.FILE, "FILE", default=Path("mitigate.yaml"), show_default=True
)
@options.overwrite
@options.json
def command(
    request: ProposalRequest, output: Path, dry_run: bool, overwrite: bool, as_json: bool
) -> None:
    """Write a configuration for mitigate that fits MODEL and your passages.

    Looks at the passages in the model's tokens, proposes lengths and columns, and says which rows
    are left out, and where three passages are cut; their text is shown only if you pass
    --show-text. Tests which of up to 200 passages MODEL recites, and measures whether --heldout and
    --calibration hold enough text. Says how many passages you need, none of them recovered, to show
    that at most the share X is recovered, and which limits each of the two parts of a search can
    decide. In a terminal, it asks for what you leave out.
    """
    if is_of_result(output):
        what = f"{output.name} is the name of a file of a result, which may name no output"
        raise click.UsageError(f"{what}: choose another --output")
    proposal = propose(request, None if dry_run else output, overwrite=overwrite)
    if as_json:
        print_json(proposal.to_dict())
        return
    _print_rows(proposal)
    _print_test(proposal)
    _print_limits(proposal)
    if dry_run:
        return
    if not (request.texts.heldout or find_lab(request.model)):
        note(f"mitigate also needs held-out text: add `heldout: [FILE]` to {output} first")
    echo(f"next: attn-surgery mitigate --config {shlex.quote(str(output))} --dry-run")


def _print_rows(found: Proposal) -> None:
    """Prints which rows can be used, and how they are cut."""
    number = f"{found.n:,} passage{'' if found.n == 1 else 's'}"
    given = f"{found.prefix_length} tokens of prefix"
    suffix = f"{found.suffix_length} of suffix"
    if found.secrets:
        least, most = found.secrets
        size = f"{least}" if least == most else f"{least} to {most}"
        before = f"at most {found.prefix_length} tokens" if found.prefix_length else "all tokens"
        given, suffix = f"{before} before their secrets", f"these as suffixes, of {size} tokens"
    echo(f"{number} of {found.lengths}: {found.usable:,} can be used with {given} and {suffix}")
    if found.columns:
        named = "row numbers" if found.id_column is None else found.id_column
        named = "id" if "id" in found.columns and found.id_column is None else named
        echo(f"columns: {', '.join(found.columns)}; passages from {found.samples}; ids: {named}")
    rows = [(label, f"{vars(found)[name]:,}") for name, label in _COUNTS.items()]
    print_table(("", "rows"), rows)
    reasons: dict[str, list[str]] = {}
    for row in found.left_out:
        reasons.setdefault(row["reason"], []).append(str(row["row"]))
    for reason, numbers in reasons.items():
        more = f" and {len(numbers) - _MOST:,} more" if len(numbers) > _MOST else ""
        echo(f"left out: {reason}: row {', '.join(numbers[:_MOST])}{more}")
    print_cuts(found.cuts, found.given_numbers)


def _print_test(found: Proposal) -> None:
    """Prints what the test is worth: warnings, what is recited, and how much text there is."""
    if found.longer:
        note(
            f"warning: {found.longer:,} of them go on after that, by up to "
            f"{found.most_untested:,} tokens, which are not tested; if a secret stands there, mark "
            "it with --secret or a column secret"
        )
    if not found.secrets and found.suffix_length is not None and found.suffix_length < SOUND:
        note(
            f"warning: a model may guess {found.suffix_length} tokens that it never saw; passages "
            f"of {2 * SOUND} tokens or more make a better test"
        )
    if (recited := found.recited) is not None:
        share, (low, high) = recited["value"], recited["ci95"]
        count = f"{recited['details']['count']} of {recited['n']} passages tested"
        echo(f"recited: {count}: {share:.1%} [{low:.1%}, {high:.1%}]")
    for name, text, unit in (
        ("held-out text", found.corpus, "windows"),
        ("calibration text", found.calibration, "tokens"),
    ):
        if text is not None:
            few = "" if text[unit] >= text["wanted"] else f"; {text['wanted']:,} are better"
            echo(f"{name}: {text[unit]:,} {unit}{few}")


def _print_limits(found: Proposal) -> None:
    """Prints which limits the passages can decide."""
    if found.members == 1:
        note("warning: one passage proves nothing: a search chooses on some and tests on others")
    for limit, n in found.needed.items():
        enough = "enough" if found.independent >= n else "too few"
        share = f"{100 * float(limit):g}%"
        echo(
            f"to show that at most {share} is recovered: {n:,} passages, none recovered; you have "
            f"{enough}"
        )
    echo("A search chooses on some passages, and tests on the others. With none of them recovered:")
    rows = [
        (
            f"{split['choose']:g}{' (proposed)' if split is found.split else ''}",
            *(
                f"{split[part]:,}: {_say_least(split[f'{part}_limit'])}"
                for part in ("chosen_on", "held_back")
            ),
        )
        for split in found.splits
    ]
    print_table(("--choose", "chooses on: decides", "tests on: decides"), rows)


def _say_least(limit: float | None) -> str:
    """The lowest limit that is decided."""
    from evals.table.limits import say_percent

    return "nothing" if limit is None else f"{say_percent(limit, 3)} or more"
