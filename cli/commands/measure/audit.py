"""attn-surgery audit"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    ask,
    attack_options,
    control_option,
    json_option,
    measuring_options,
    note,
    output_option,
    overwrite_option,
    print_json,
    samples_option,
)
from cli.progress import progress
from cli.tables.audit import note_limits, print_audit


@click.command("audit")
@click.argument("model")
@click.option("--baseline", required=True, metavar="BASE", help="The model before the edit.")
@samples_option("The passages, as for extract.  [default: a lab model's own]")
@control_option(
    "Text the models were not trained on; may be repeated.  [default: a lab model's own]"
)
@attack_options
@measuring_options
@output_option("Folder to create: audit.json and a picture.")
@overwrite_option
@json_option
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Measure what an attacker recovers from MODEL, from BASE, and of text never trained on.

    Exact greedy match is brittle: one wrong token, and a passage counts as forgotten. The attacks
    go on from there; docs/threat-model.md says what each assumes. Exit code 3 when a limit is
    missed.

    Where a search chose the edit on some of the passages, the figures are of the others.
    """
    from evals.attacks.request import AuditRequest

    request = ask(AuditRequest, asked)

    from evals.attacks.audit import audit

    found = audit(request, output, overwrite=overwrite, say=note, progress=progress)
    if found is None:
        return
    result = found.to_dict()
    (print_json if as_json else print_audit)(result)
    if not note_limits(result):
        raise click.exceptions.Exit(3)
