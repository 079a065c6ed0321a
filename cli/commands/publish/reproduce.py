"""attn-surgery reproduce"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cli.options import (
    echo,
    json_option,
    note,
    overwrite_option,
    print_json,
    revision_option,
)


@click.command("reproduce")
@click.argument("model")
@revision_option
@click.option(
    "--source", metavar="MODEL", help="A copy of the source.  [default: the recorded one]"
)
@click.option(
    "--calibration",
    multiple=True,
    metavar="FILE",
    help="The text that mean and linear were fitted on; may be repeated.  [default: a lab model's]",
)
@click.option("--output", metavar="DIR", help="Keep the repeated export in DIR.")
@overwrite_option
@json_option
def command(
    model: str,
    revision: str | None,
    source: str | None,
    calibration: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Repeat the edit that MODEL records, and compare the result with MODEL, file by file.

    MODEL is an exported folder or a published one. Its source is fetched at the recorded commit.
    identity and zero must repeat bit for bit. mean and linear, which are fitted, may differ within
    a tolerance where libraries differ. The weights of a published model are downloaded only to
    compare fitted tensors. The exit code is 1 when a file differs. To repeat the measurements, run
    the commands that report.json lists.
    """
    from cli.progress import progress
    from evals.inputs import calibration_text, fitted
    from surgery.exporting import check_target
    from surgery.proof.reproduction import open_original, reproduce

    if output is not None:
        check_target(model, Path(output), overwrite=overwrite)
    original = open_original(model, revision)
    edit = original.manifest.edit
    variants = [part.variant for part in edit.parts]
    text = calibration_text(calibration, edit.source.model, variants)
    if text is not None and edit.calibration is not None:
        text = replace(text, spread=edit.calibration.spread)
    with progress("reproduce", None) as advance:
        result = reproduce(
            original,
            output,
            source=source,
            overwrite=overwrite,
            fit=None if text is None else lambda prepared: fitted(prepared, text, progress),
            progress=advance,
        )
    if as_json:
        print_json(result.to_json())
    else:
        for file in result.files:
            echo(f"{'equal  ' if file.equal else 'close  ' if file.ok else 'DIFFERS'} {file.name}")
    for name, (then, now) in result.environment.items():
        note(f"{name}: {then or 'none'} when it was made, {now or 'none'} now")
    if result.source_is_edited:
        note(f"the source, {edit.source.model}, is itself an edited model: reproduce it too")
    if result.first_difference is not None:
        note(f"error: {model}: is not reproduced: {result.first_difference} differs")
        raise click.exceptions.Exit(1)
    if not as_json:
        exactly = "bit for bit" if result.exact else "within the tolerance of 1 %"
        echo(f"{model}: {len(result.files)} files reproduced {exactly} from {edit.source.model}")
