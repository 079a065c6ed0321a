"""What of a folder may be published: what its manifest lists, and a report as `render` makes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from surgery.card.file import read_card
from surgery.card.metadata import Measurements
from surgery.checkpoint.foreign import read_bytes
from surgery.checkpoint.source import MANIFEST
from surgery.errors import ManifestError, OutputError
from surgery.proof.claims import Render, read_told
from surgery.proof.verification import verify
from surgery.record.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class Publishable:
    """A folder that verifies. `card`: README.md as it is, "" without one.

    `contents`: file → what is sent; `hashes`: file → the SHA-256 that must arrive.
    """

    manifest: Manifest
    contents: Mapping[str, Path | bytes]
    hashes: Mapping[str, str]
    card: str
    measured: Measurements | None


def publishable(
    folder: Path, evaluation: Path | None = None, render: Render | None = None
) -> Publishable:
    """Looks through an exported folder. `evaluation`: where its report is, if not in the folder.

    A report and its pages are sent as `render` makes them; without it there is none.

    **Raises:** `ManifestError` when it has no manifest, `OutputError` when it does not verify or
    records a path, or when its report may show passages or is of another model.
    """
    result = verify(folder, card=False)  # a fresh one is sent
    failed = next((check for check in result.checks if not check.ok), None)
    if failed is not None:
        what = f"does not verify, so it is not published: {failed.name}: {failed.detail}"
        raise OutputError(what, where=folder, fix="export it again")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ManifestError(f"has lost its {MANIFEST}", where=folder)
    for edit in (manifest.edit, *manifest.history):
        if Path(edit.source.model).is_absolute():  # as early versions recorded it
            what = "records the path of its source, which is never published"
            raise OutputError(what, where=folder / MANIFEST, fix="export it again")
    written = {MANIFEST: read_bytes(folder / MANIFEST, ManifestError)}
    place = evaluation or folder
    measured = None
    told = render and read_told(folder, place, render, needed=evaluation is not None)
    if told:
        measured = told.measured
        written |= {name: text.encode() for name, text in told.files.items()}
    listed = {name: folder / name for name in manifest.files}
    return Publishable(
        manifest,
        {**listed, **written},
        {name: file.sha256 for name, file in manifest.files.items()}
        | {name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
        read_card(folder) or "",
        measured,
    )
