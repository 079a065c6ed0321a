"""Reads and replaces README.md in the folder of an edited model."""

from __future__ import annotations

from pathlib import Path

from surgery.card.metadata import Measurements
from surgery.card.text import render_card
from surgery.checkpoint.source import CARD, MANIFEST, check_link
from surgery.errors import ManifestError, SourceError
from surgery.hub.finding import get_last_name
from surgery.output import write_text
from surgery.record.manifest import read_manifest
from surgery.untrusted import read_bytes

_LARGEST = 2**20  # bytes of a card


def read_card(folder: Path) -> str | None:
    """A folder's own README.md; None without one. Bytes that are no text are replaced."""
    path = check_link(folder / CARD, folder)
    if not path.is_file():
        return None
    return read_bytes(path, SourceError, limit=_LARGEST).decode("utf-8", errors="replace")


def refresh_card(folder: Path, measured: Measurements | None) -> Path:
    """Writes a folder's card again, with the figures of an evaluation. The user's text stays.

    Raises `ManifestError` if the folder has no manifest or its card is broken, and `OutputError` if
    the card cannot be written. The old card then stays.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ManifestError(f"has no {MANIFEST}", where=folder)
    existing = read_card(folder)
    text = render_card(manifest, name=get_last_name(folder), measured=measured, existing=existing)
    write_text(folder / CARD, text, overwrite=True)
    return folder / CARD
