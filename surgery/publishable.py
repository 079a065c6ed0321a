"""What of a folder may be published: what its manifest lists, and a report without texts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.card_file import read_card
from surgery.checkpoint.source import read_json
from surgery.errors import ManifestError, OutputError
from surgery.manifest import NAME as MANIFEST
from surgery.manifest import Manifest, read_manifest
from surgery.verification import verify

REPORTS = ("report.json", "report.html", "report.md")
_TEXTS = {"prefix", "suffix", "text"}  # keys that hold passages, with --show-text only


@dataclass(frozen=True)
class Publishable:
    """A folder that verifies. `files`: name → file; `card`: README.md as it is, "" without one."""

    manifest: Manifest
    files: Mapping[str, Path]
    card: str
    report: Mapping[str, Any] | None


def publishable(folder: Path, evaluation: Path | None = None) -> Publishable:
    """Looks through an exported folder. `evaluation`: where its report is, if not in the folder.

    **Raises:** `ManifestError` when it has no manifest, `OutputError` when it does not verify, or
    when its report shows passages or is of another model.
    """
    result = verify(folder)
    failed = next((check for check in result.checks if not check.ok), None)
    if failed is not None:
        what = f"does not verify, so it is not published: {failed.name}: {failed.detail}"
        raise OutputError(what, where=folder, fix="export it again")
    manifest = read_manifest(folder)
    if manifest is None:
        raise ManifestError(f"has lost its {MANIFEST}", where=folder)
    files = {name: folder / name for name in (*manifest.files, MANIFEST)}
    reports = {name: (evaluation or folder) / name for name in REPORTS}
    report = read_json(reports[REPORTS[0]], needed=evaluation is not None) or None
    if report is not None:
        _check_report(folder, reports[REPORTS[0]], report)
        files |= {name: file for name, file in reports.items() if file.is_file()}
    return Publishable(manifest, files, read_card(folder) or "", report)


def _check_report(folder: Path, where: Path, report: Mapping[str, Any]) -> None:
    if any(_TEXTS & set(row) for row in report.get("passages") or ()):
        raise OutputError(
            "shows the text of passages, which is never published",
            where=where,
            fix="evaluate again without --show-text, or remove the report",
        )
    measured = (report.get("provenance") or {}).get("edited") or {}
    manifest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    if measured.get("manifest_sha256") != manifest:
        raise OutputError("is of another model", where=where, fix="evaluate this one, or remove it")
