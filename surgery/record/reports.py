"""Ties the report beside a model to it: the manifest holds the hashes of the report's files, and
the report names the model by its content.

Nothing here can know whether a passage was recited. Who changes a report and the manifest, too,
makes a claim of their own, as with everything that `verify` lists as claimed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from surgery.checkpoint import MANIFEST
from surgery.errors import OutputError
from surgery.privacy import check_link
from surgery.record.manifest import REPORTS, Manifest
from surgery.record.report import SCHEMA, Report
from surgery.untrusted import parse_json, read_bytes, reraise_as


def record_reports(manifest: Manifest, pages: Mapping[str, str]) -> Manifest:
    """The manifest with the hashes of these files of an evaluation, by name."""
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in pages.items()}
    return manifest.model_copy(update={"reports": hashes})


def _check_schema(plain: object, where: Path) -> None:
    """Raises `OutputError` for the report of another version."""
    schema = plain.get("schema_version") if isinstance(plain, dict) else None
    if isinstance(schema, int) and schema != SCHEMA:
        raise OutputError(
            "is a report of another version of attn-surgery",
            where=where,
            expected=f"schema {SCHEMA}",
            got=schema,
            fix="evaluate again",
        )


def read_report(folder: Path, manifest: Manifest) -> tuple[Report | None, dict[str, bytes]]:
    """The report of a model beside its manifest, if there is one, and the bytes of its files.

    Raises `OutputError` for a file that is not what the manifest records, for what is no report,
    and for the report of another model, or of one whose base is not its source.
    """
    fix = "remove it, and evaluate again"
    found: dict[str, bytes] = {}
    for name in REPORTS:
        path, recorded = check_link(folder / name, folder), manifest.reports.get(name)
        if not path.exists():
            if recorded is not None:
                raise OutputError("is missing", where=folder / name, fix="evaluate again")
            continue
        found[name] = read_bytes(path, OutputError)
        if hashlib.sha256(found[name]).hexdigest() != recorded:
            what = f"is not the one that {MANIFEST} records"
            raise OutputError(what, where=folder / name, fix=fix)
    if not found:
        return None, {}
    where = folder / REPORTS[0]
    if REPORTS[0] not in found:
        raise OutputError("is missing", where=where, fix="evaluate again")
    with reraise_as(OutputError, "is not a report", where, fix):
        plain = parse_json(found[REPORTS[0]])
        _check_schema(plain, where)
        report = Report.model_validate(plain)
    if [edit.provenance.get("content") for edit in report.edits] != [manifest.content]:
        raise OutputError("belongs to another model", where=where, fix=fix)
    if report.edits[0].relation != "source":
        what = "compares with a model that is not recorded as the source"
        raise OutputError(what, where=where, fix=f"{fix} against the source")
    return report, found
