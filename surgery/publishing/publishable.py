"""What of a folder may be published: what its manifest lists, and a report as `render` makes it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.card.file import read_card
from surgery.card.leaderboards import eval_results
from surgery.card.measured import Measured
from surgery.checkpoint.foreign import guard, own_file, read_bytes
from surgery.checkpoint.source import MANIFEST, read_json
from surgery.errors import ManifestError, OutputError
from surgery.proof.verification import verify
from surgery.record.manifest import REPORTS, Manifest, read_manifest


@dataclass(frozen=True)
class PublicReport:
    """A report as it may be published.

    `files`: name → text, report.json and its pages; `measured`: what the card shows of it.
    `manifest_sha256`: of the model that was measured; `of_source`: whether it is compared with the
    model that it was made from.
    """

    files: Mapping[str, str]
    measured: Measured | None
    manifest_sha256: str | None
    of_source: bool


Render = Callable[[Mapping[str, Any], Path], PublicReport]
"""The content of a report.json and the file it is from → what of it is published.

Raises ValueError for what is no report, and `OutputError` where it may show a passage.
"""


@dataclass(frozen=True)
class Publishable:
    """A folder that verifies. `card`: README.md as it is, "" without one.

    `contents`: file → what is sent; `hashes`: file → the SHA-256 that must arrive.
    """

    manifest: Manifest
    contents: Mapping[str, Path | bytes]
    hashes: Mapping[str, str]
    card: str
    measured: Measured | None


def publishable(
    folder: Path, evaluation: Path | None = None, render: Render | None = None
) -> Publishable:
    """Looks through an exported folder. `evaluation`: where its report is, if not in the folder.

    A report and its pages are sent as `render` makes them; without it there is none.

    **Raises:** `ManifestError` when it has no manifest, `OutputError` when it does not verify or
    records a path, or when its report may show passages or is of another model.
    """
    result = verify(folder)
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
    where, measured = place / REPORTS[0], None
    found = render and read_json(own_file(where, place), needed=evaluation is not None)
    if render and found:
        with guard(OutputError, "is no report", where, "evaluate again, or remove it"):
            report = render(found, where)
        _check_model(report, where, written[MANIFEST])
        measured = report.measured
        shown = {**report.files, **(eval_results(measured) if measured else {})}
        written |= {name: text.encode() for name, text in shown.items()}
    listed = {name: folder / name for name in manifest.files}
    return Publishable(
        manifest,
        {**listed, **written},
        {name: file.sha256 for name, file in manifest.files.items()}
        | {name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
        read_card(folder) or "",
        measured,
    )


def _check_model(report: PublicReport, where: Path, manifest: bytes) -> None:
    """Refuses a report that is of another model, or compares with one that is not its source."""
    if report.manifest_sha256 != hashlib.sha256(manifest).hexdigest():
        raise OutputError("is of another model", where=where, fix="evaluate this one, or remove it")
    if not report.of_source:
        what = "compares with a model that is not known to be the source"
        raise OutputError(what, where=where, fix="evaluate against the source, or remove it")
