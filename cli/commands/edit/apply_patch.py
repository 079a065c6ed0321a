"""attn-surgery apply-patch"""

from __future__ import annotations

from pathlib import Path

import click
from rich.filesize import decimal

from cli import options
from cli.terminal import echo, print_json, show_progress


@click.command("apply-patch")
@click.argument("model")
@click.argument("patch", metavar="PATCH", type=options.FILE)
@options.output("Folder to create.", required=True)
@options.revision
@options.overwrite
@options.json
def command(
    model: str, patch: Path, output: Path, revision: str | None, overwrite: bool, as_json: bool
) -> None:
    """Make the checkpoint that PATCH was taken from, byte for byte. The model card is written anew.

    PATCH is a file that `export --as-patch` wrote, and MODEL the model that it edited: a folder, a
    Hub id, or a lab model. Any other model is refused. Every file must get its recorded SHA-256.
    """
    from surgery.patching import apply_patch
    from surgery.selection import name_blocks

    with show_progress("apply-patch", None) as advance:
        manifest = apply_patch(
            model, patch, output, revision=revision, overwrite=overwrite, progress=advance
        )
    edit, files = manifest.edit, manifest.files
    if as_json:
        edited = {"blocks": list(edit.blocks), "variant": edit.variant}
        print_json(
            {"output": str(output), **edited, **edit.model_dump(include={"source", "layout"})}
        )
        return
    what = f"{name_blocks(edit.parts, edit.num_heads)}: {edit.variant}, {edit.layout}"
    size = sum(file.size for file in files.values())
    echo(f"{output}: {what}; {len(files)} files, {decimal(size)}")
