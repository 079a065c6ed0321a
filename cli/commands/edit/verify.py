"""attn-surgery verify"""

from __future__ import annotations

import click

from cli.options import echo, json_option, note, print_json, revision_option, typed


@click.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path())
@click.option(
    "--source",
    metavar="MODEL",
    help="The model that was edited: compares every tensor with it, byte by byte.",
)
@revision_option
@json_option
def command(folder: str, source: str | None, revision: str | None, as_json: bool) -> None:
    """Prove that the exported folder DIR is what its manifest says.

    Checks the SHA-256 of every file, and that nothing else lies there. Edited heads must hold
    exactly the constants that make them attention-free. With --source, everything else must be
    byte-equal to the source's, and the edit must repeat. The model is then run on a new random
    input: edited heads must depend on each token alone, and all others must still mix tokens.
    README.md and report.json must agree with each other and with the manifest. What no check can
    prove, such as measurements, is listed as claimed. The last line is the verdict. The exit code
    is 1 when a check fails.
    """
    from evals.publication.report import render_report
    from surgery.proof.verification import verify

    result = verify(folder, source=source, revision=revision, render=render_report)
    if as_json:
        print_json(result.to_json())
    else:
        for check in result.checks:
            echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.detail}")
        for claim in result.claims:
            echo(f"claimed {claim.name}: {typed(claim.detail)}")
        echo(f"{folder}: {result.verdict}")
    if result.failed is not None:
        note(f"error: {folder}: {result.failed.name}: {result.failed.detail}")
        raise click.exceptions.Exit(1)
