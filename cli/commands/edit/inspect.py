"""attn-surgery inspect"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from cli import options
from cli.terminal import echo, print_json

if TYPE_CHECKING:
    from surgery.record.manifest import Step


@click.command("inspect")
@click.argument("model")
@options.revision
@options.json
def command(model: str, revision: str | None, as_json: bool) -> None:
    """Show MODEL's family, blocks, dtype, and size, and which blocks are attention-free.

    MODEL is a folder, a Hub id, or a lab model (lab:pythia, lab:gpt-neo). No weights are read or
    downloaded, so this repeats what the record of MODEL says; verify checks it.
    """
    from surgery.inspection import inspect

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
    if not found.attention_free and not found.edited_heads:
        said = "no block is recorded as attention-free"
        echo(f"  {said}" if found.edits else f"  {said}; only the weights would show a cut")
    for block, variant in found.attention_free.items():
        echo(f"  block {block}: attention-free ({variant}, {found.layout})")
    for block, heads in found.edited_heads.items():
        named = ", ".join(f"{head} ({variant})" for head, variant in heads.items())
        echo(f"  block {block}: heads without attention: {named}")
    for step in found.edits:
        commit = f" at {step.source.commit[:12]}" if step.source.commit else ""
        echo(f"  edited from {step.source.model}{commit}: {_describe_step(step)}")
    if found.edits:
        echo("  so says surgery.json: attn-surgery verify checks it")


def _describe_step(step: Step) -> str:
    from surgery.selection import name_blocks

    if taught := step.erasing:
        hardened = "hardened" if taught.hardened else "not hardened against fine-tuning"
        return (
            f"{taught.passages.number:,} passages erased in {taught.steps} steps, "
            f"taught by {taught.name_teacher(step.num_heads)}, "
            f"{hardened}"
        )
    if step.healing:
        return f"healed in {step.healing.steps} steps"
    return f"{name_blocks(step.parts, step.num_heads)}, {step.variant}"
