"""attn-surgery audit"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import (
    attack_options,
    control_option,
    fill_request,
    json_option,
    measuring_options,
    output_option,
    overwrite_option,
    samples_option,
    twin_option,
)
from cli.tables.audit import note_limits, print_audit
from cli.terminal import note, print_json, show_progress


@click.command("audit")
@click.argument("model")
@click.option("--baseline", required=True, metavar="BASE", help="The model before the edit.")
@samples_option("Passages to attack, as for extract.  [default: a lab model's own]")
@control_option("a lab model's own")
@twin_option
@attack_options
@measuring_options
@output_option("Folder to create, with audit.json and a picture.")
@overwrite_option
@json_option
def command(output: Path | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Measure what an attacker recovers from MODEL and from BASE.

    An exact match is brittle: a passage with one wrong token counts as forgotten. The attacks test
    whether it really is. docs/threat-model.md says what each of them assumes. The same attacks run
    on text that the models were not trained on, for comparison. The exit code is 3 if a limit is
    missed.

    If a search chose the edit on some of the passages, the figures are for the others.
    """
    from evals.attacks.request import AuditRequest

    request = fill_request(AuditRequest, asked)

    from evals.attacks.audit import audit

    found = audit(request, output, overwrite=overwrite, say=note, progress=show_progress)
    if found is None:
        return
    result = found.to_dict()
    (print_json if as_json else print_audit)(result)
    if not note_limits(result):
        raise click.exceptions.Exit(3)
