"""attn-surgery init"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.config import is_of_result
from cli.requests import RequestCommand, fill_request, options_of
from cli.tables.cuts import print_cuts
from cli.terminal import echo, note, print_json
from evals.jobs.proposing import SOUND, Proposal, ProposalRequest, propose
from surgery.hub.embedded import find_lab

_ASKED = {
    "model": "Model to edit (a folder or a Hub id)",
    "samples": "Passages that it must not recite (a file)",
    "heldout": "Held-out text, which it was not trained on (a file)",
}
"""What a terminal is asked for."""


@click.command("init", cls=RequestCommand)
@click.argument("model", required=False)
@options_of(ProposalRequest)
@options.output(
    "File to write.", options.FILE, "FILE", default=Path("mitigate.yaml"), show_default=True
)
@options.overwrite
@options.json
def command(output: Path, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Write a configuration for mitigate that fits MODEL and your passages.

    Looks at the passages in the model's tokens, and proposes lengths and columns. Says which limit
    your passages can support, and where three of them are cut; their text is shown only if you pass
    --show-text. Reads no weights; a Hub model is downloaded first.
    In a terminal, it asks for what you leave out.
    """
    for name, question in _ASKED.items():
        if not given[name] and sys.stdin.isatty() and not as_json:
            lab = str(given["model"]).startswith("lab:") and name != "model"
            answer = None if lab else click.prompt(question, err=True)
            given[name] = (answer,) if answer and name == "heldout" else answer
    if not given["model"]:
        raise click.UsageError("name a MODEL")
    if is_of_result(output):
        what = f"{output.name} is the name of a file of a result, which may name no output"
        raise click.UsageError(f"{what}: choose another --output")
    request = fill_request(ProposalRequest, given)
    proposal = propose(request, output, overwrite=overwrite)
    if as_json:
        print_json(proposal.to_dict())
    else:
        _print(proposal, output)


def _print(found: Proposal, output: Path) -> None:
    number = f"{found.number:,} passage{'' if found.number == 1 else 's'}"
    suffix = f"{found.suffix_length} of suffix"
    if found.secrets:
        least, most = found.secrets
        size = f"{least}" if least == most else f"{least} to {most}"
        suffix = f"their secrets as suffixes, of {size} tokens"
    echo(
        f"{number} of {found.lengths}: {found.usable:,} can be used with {found.prefix_length} "
        f"tokens of prefix and {suffix}"
    )
    print_cuts(found.cuts, found.given_numbers)
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
    if found.columns:
        named = "row numbers" if found.id_column is None else found.id_column
        named = "id" if "id" in found.columns and found.id_column is None else named
        echo(f"columns: {', '.join(found.columns)}; passages from {found.samples}; ids: {named}")
    limit = found.request.max_extraction
    if found.usable > 1 and found.supported is not None and found.needed is not None:
        decides = "can" if found.supported <= limit else "cannot"
        echo(
            f"a search holds back {found.held_back:,} of them. They {decides} decide a limit of "
            f"{100 * limit:g}%, which takes {found.needed:,} passages in all. If none of those "
            f"held back is recovered, that supports a limit of {100 * found.supported:.3g}%"
        )
    if found.usable == 1:
        takes = f"; to decide a limit of {100 * limit:g}%, give {found.needed:,} or more"
        note(
            "warning: one passage proves nothing: a search chooses on some and tests on others"
            f"{takes if found.needed else ''}"
        )
    if not (found.request.heldout or find_lab(found.request.model)):
        note(f"mitigate also needs held-out text: add `heldout: [FILE]` to {output} first")
    echo(f"next: attn-surgery mitigate --config {shlex.quote(str(output))} --dry-run")
