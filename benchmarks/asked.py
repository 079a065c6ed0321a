"""Keeps the options of a long run in its folder, so that no other run goes on there by mistake."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from surgery.checkpoint import hash_file
from surgery.output import write_text

CONTENT = "content"
"""The key of what `hash_files` returns."""


def check_asked(folder: Path, asked: Mapping[str, Any]) -> None:
    """Writes `asked`, options by their names, into a folder, if nothing is there yet.

    Raises `UsageError` if an earlier run in the folder had other options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted, path = json.loads(json.dumps(asked, default=str)), folder / "asked.json"
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=1) + "\n")
    if different := find_different(json.loads(path.read_text()), wanted):
        raise click.UsageError(f"{folder} holds a run with {different}: give another --output")


def find_different(earlier: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first option that differs, in words."""
    different = [name for name in wanted if earlier.get(name) != wanted[name]]
    if not different:
        return None
    name = different[0]
    if name == CONTENT:
        return "other content in the files that are named"
    return f"another {name} ({earlier.get(name)})"


def hash_files(*files: str | Path | None) -> list[str]:
    """The SHA-256 of each that is a file."""
    return [hash_file(Path(one)) for one in files if one is not None and Path(one).is_file()]
