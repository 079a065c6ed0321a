"""Gathers an edit's facts for the card's template, and escapes text for Markdown."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

from surgery.families import SAVED_AS, family_of
from surgery.record.manifest import Edit, Manifest, TextRecord
from surgery.selection import by_variant, format_blocks, format_selection
from surgery.variants import VARIANTS


def gather_facts(manifest: Manifest, name: str) -> dict[str, Any]:
    """What was done to which model, and the resulting files. `name`: to load the model by."""
    edits, edit = [*manifest.history, manifest.edit], manifest.edit
    family = family_of({"model_type": edit.family})
    whole = format_blocks(tuple(manifest.attention_free))
    partial = set(manifest.edited_heads) - set(manifest.attention_free)
    healed = [e.healing for e in edits if e.healing]
    erased = [_describe_erasing(e) for e in edits if e.erasing]
    trained = [*healed, *(e.erasing for e in edits if e.erasing)]
    machines = dict.fromkeys(f"{one.threads}, {one.device}" for one in trained)
    modeling = next((file for file in manifest.files if file.endswith(".py")), None)
    return {
        "title": name,
        "name": as_command(shlex.quote(name)),
        "quoted": as_python(name),
        "base": _link_base(edits[0]),
        "whole": whole,
        "partial": format_blocks(tuple(sorted(partial))),
        "num_blocks": edit.num_blocks,
        "edits": [_describe_edit(edit) for edit in edits],
        "layout": "stock" if modeling is None else "compact",
        "modeling": modeling,
        "architecture": family.architecture,
        "one_hot": any(e.one_hot is not None for e in edits),
        "tokenizer": any(file.startswith("tokenizer") for file in manifest.files),
        "fitted": _join_names(*(e.calibration for e in edits)),
        "erased": erased,
        "erased_on": _join_names(*(e.erasing for e in edits)),
        "healed": healed,
        "healed_on": _join_names(*healed),
        "machines": "; ".join(machines),
        "files": list(manifest.files.items()),
        "versions": edit.versions,
    }


def _join_names(*texts: TextRecord | None) -> Markdown:
    """The names of the files that texts came from, each once."""
    names = dict.fromkeys(source.name for text in texts if text for source in text.sources)
    return Markdown(", ".join(map(as_code, names)))


def _link_base(first: Edit) -> Markdown:
    """The first source, as a link if it is on the Hub."""
    if (hub := first.source.hub_id) is not None:
        return Markdown(f"[{as_line(hub)}](https://huggingface.co/{hub})")
    return as_code(_name_source(first))


def _name_source(edit: Edit) -> str:
    """The source's name; only the last part of a folder, since early versions recorded paths."""
    model = edit.source.model
    return model if edit.source.commit or model.startswith("lab:") else Path(model).name


def _describe_edit(edit: Edit) -> dict[str, Any]:
    spec = format_selection(edit.parts, edit.num_heads)
    chosen = ["--drop-attn", spec, "--variant", edit.variant]
    if edit.variant == "mixed":
        chosen = ["--plan", "PLAN"]  # a file of the rows of the table
    revision = ["--revision", edit.source.commit] if edit.source.commit else []
    calibration = ["--calibration", "TEXT"] if edit.calibration else []
    if edit.healing:
        calibration += ["--heal", "TEXT", "--heal-steps", str(edit.healing.steps)]
    size = ["--max-shard-size", str(edit.max_shard_size)] if edit.max_shard_size else []
    return {
        "source": _name_source(edit),
        "commit": edit.source.commit,
        "parts": [
            (format_selection(parts, edit.num_heads), variant, VARIANTS[variant].SUMMARY)
            for variant, parts in by_variant(edit.parts).items()
        ],
        "command": as_command(
            shlex.join(["attn-surgery", "export", _name_source(edit), *revision])
        ),
        "options": as_command(
            shlex.join([*chosen, *calibration, *name_form(edit.layout, edit.family), *size])
        ),
    }


def _describe_erasing(edit: Edit) -> dict[str, Any]:
    assert edit.erasing is not None
    taught = [
        f"{format_selection(parts, edit.num_heads)} ({variant})"
        for variant, parts in by_variant(edit.erasing.teacher).items()
    ]
    return {**vars(edit.erasing), "cut": ", ".join(taught)}


def name_form(layout: str, family: str) -> list[str]:
    """The options of an export that say how the result is stored.

    No record tells whether the source had another model type. `--as` changes nothing if not.
    """
    return ["--layout", layout, *(["--as", family] if family in SAVED_AS else [])]


class Markdown(str):
    """Text that is already Markdown. All other text goes through `as_line`."""


def as_line(text: object) -> Markdown:
    """Escapes text so that it shows as it is, in one line, and starts no markup or comment."""
    escaped = re.sub(
        r"[\\`*\[\]{}|~#$]|(?<![^\W_])_|_(?![^\W_])|^[-+=]", r"\\\g<0>", make_printable(text)
    )
    return Markdown(html.escape(escaped, quote=False))


def as_code(text: object) -> Markdown:
    """Puts text into a code span that it cannot end, in one line of a table."""
    return Markdown(f"`{as_command(text).replace('`', '')}`".replace("|", "\\|"))


def as_command(text: object) -> Markdown:
    """One line for a block of code, in which no comment of ours can start."""
    return Markdown(make_printable(text).replace("<", "‹"))


def as_python(text: str) -> Markdown:
    """A Python string literal for a block of code."""
    return Markdown(json.dumps(make_printable(text)).replace("<", "\\u003c"))


def make_printable(text: object) -> str:
    """Puts text in one line, without control characters or marks that change its direction."""
    kept = (letter if letter.isprintable() else " " for letter in str(text))
    return " ".join("".join(kept).split())


FILTERS = {
    "code": as_code,
    "verbatim": Markdown,
    "plural": lambda spec, noun: noun if spec.isdigit() else f"{noun}s",
}
"""Of the template."""
