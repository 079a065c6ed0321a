"""attn-surgery inspect"""

from __future__ import annotations

import click

from cli import options
from cli.terminal import echo, print_json


@click.command("inspect")
@click.argument("model")
@options.revision
@options.json
def command(model: str, revision: str | None, as_json: bool) -> None:
    """Show MODEL's family, blocks, dtype, and size, and which blocks are attention-free.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). No weights are read or
    downloaded.
    """
    from surgery.families import left_out
    from surgery.proof.inspection import inspect
    from surgery.selection import name_blocks

    found = inspect(model, revision=revision)
    if as_json:
        print_json(found.to_json())
        return
    echo(found.model)
    size = "dtype and size unknown until the pickled weights are downloaded"
    if found.dtype is not None:
        number = "packed" if found.parameters is None else f"{found.parameters:,}"
        size = f"{number} parameters, {found.dtype}"
    echo(f"  {found.family}, {found.num_blocks} blocks, {size}")
    if found.unknown_keys:
        echo(f"  {left_out(found.unknown_keys)}")
    if not found.attention_free and not found.edited_heads:
        echo("  every block has attention")
    for block, variant in found.attention_free.items():
        echo(f"  block {block}: attention-free ({variant}, {found.layout})")
    for block, heads in found.edited_heads.items():
        named = ", ".join(f"{head} ({variant})" for head, variant in heads.items())
        echo(f"  block {block}: heads without attention: {named}")
    for edit in found.edits:
        done = []
        if taught := edit.erasing:
            teacher = name_blocks(taught.teacher, edit.num_heads)
            hardened = "hardened" if taught.hardened else "not hardened against fine-tuning"
            done.append(
                f"{taught.passages.number:,} passages erased in {taught.steps} steps, taught by "
                f"the cut of {teacher}, {hardened}"
            )
        blocks = name_blocks(edit.parts, edit.num_heads)
        done += [f"{blocks}, {edit.variant}"] if edit.parts else []
        done += ["healed"] if edit.healing else []
        commit = f" at {edit.source.commit[:12]}" if edit.source.commit else ""
        echo(f"  edited from {edit.source.model}{commit}: {'; '.join(done)}")
