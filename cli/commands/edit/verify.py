"""attn-surgery verify"""

from __future__ import annotations

import click

from cli.options import echo, json_option, note, print_json, revision_option


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

    Checks the SHA-256 of every file, and that nothing else lies there; that edited heads hold
    exactly the constants that make them attention-free; with --source, that all else is byte-equal
    and the edit repeats; and, on the loaded model and a new random input, that edited heads depend
    on each token alone while others still mix tokens. Exit code 1 when a check fails.
    """
    from surgery.proof.verification import verify

    result = verify(folder, source=source, revision=revision)
    if as_json:
        print_json(result.to_json())
    else:
        for check in result.checks:
            echo(f"{'ok    ' if check.ok else 'FAILED'} {check.name}: {check.detail}")
        if source is None:
            note("tensors were not compared with the original: give it as --source")
    if not result.ok:
        failed = next(check for check in result.checks if not check.ok)
        note(f"error: {folder}: {failed.name}: {failed.detail}")
        raise click.exceptions.Exit(1)
