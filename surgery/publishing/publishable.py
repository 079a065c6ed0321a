"""Selects what may be published: the files of the manifest, and a report that `render` makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from surgery.card.file import read_card
from surgery.card.metadata import Measurements
from surgery.checkpoint.source import MANIFEST
from surgery.errors import ManifestError, OutputError
from surgery.proof.claims import Render, read_report_in
from surgery.proof.verification import verify
from surgery.record.manifest import Manifest, read_manifest
from surgery.untrusted import read_bytes


@dataclass(frozen=True)
class Publishable:
    """A verified folder. `card`: README.md as it is, or "".

    `contents`: file → what is sent; `hashes`: file → the SHA-256 that must arrive.
    """

    manifest: Manifest
    contents: Mapping[str, Path | bytes]
    hashes: Mapping[str, str]
    card: str
    measured: Measurements | None


def find_publishable(
    folder: Path, evaluation: Path | None = None, render: Render | None = None
) -> Publishable:
    """Verifies an exported folder. `evaluation`: the folder of its report, if another one.

    `render` makes the report and its pages anew; without it no report is sent.

    **Raises:** `ManifestError` if it has no manifest, `OutputError` if it does not verify or
    records a path, or if its report is of another model or holds what a report may not hold.
    """
    failed = verify(folder, card=False).failed  # the card is made anew
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
    report = None
    if render is not None:
        report = read_report_in(evaluation or folder, folder, render, needed=evaluation is not None)
    if report is not None:
        written |= {name: text.encode() for name, text in report.files.items()}
    return Publishable(
        manifest,
        {**{name: folder / name for name in manifest.files}, **written},
        {name: file.sha256 for name, file in manifest.files.items()}
        | {name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
        read_card(folder) or "",
        report.measured if report else None,
    )
