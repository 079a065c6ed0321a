"""Checks a model's report and card against the manifest, and lists what remains a mere claim.

The files cannot prove a report's figures, but the figures must agree with each other, and the card
must show them and nothing else. What no check reads is listed as a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.card.text import Measurements, extract_own_text, find_disagreement, read_card
from surgery.checkpoint.source import CARD, MANIFEST, check_link
from surgery.errors import CheckpointError, ManifestError, OutputError
from surgery.hub.finding import get_last_name
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import RECIPE, REPORTS, Manifest, list_versions
from surgery.untrusted import guard, read_bytes, read_json

TOOL = "attn-surgery"
_REPEAT = "run `attn-surgery reproduce`"


@dataclass(frozen=True)
class RenderedReport:
    """A report that agrees with itself and with the manifest.

    `files`: name → text of report.json and its pages, rendered again from its figures; `measured`:
    its part of the card; `version`: of the attn-surgery that wrote it.
    """

    files: Mapping[str, str]
    measured: Measurements | None
    version: str | None


Render = Callable[[Mapping[str, Any], Path, bytes], RenderedReport]
"""The content of a report.json, its file, and its model's manifest → the report.

Raises ValueError if it is not a report, and `OutputError` if it was changed, contradicts the
manifest, or holds anything that a report may not hold.
"""


@dataclass(frozen=True)
class Claim:
    """A statement of a folder that no check proves."""

    name: str
    detail: str


def read_report_in(
    place: Path, folder: Path, render: Render, *, needed: bool = False
) -> RenderedReport | None:
    """Returns the report in `place` about the model in `folder`; None if there is none."""
    where = place / REPORTS[0]
    found = read_json(check_link(where, place), needed=needed)
    if not found:
        return None
    with guard(OutputError, "is not a report", where, "remove it, and evaluate again"):
        return render(found, where, read_bytes(folder / MANIFEST, ManifestError))


def check_report(folder: Path, report: RenderedReport) -> str:
    """Raises `CheckpointError` if a page differs from the report."""
    pages = REPORTS[1:] if _is_ours(report.version) else ()  # others cannot be rendered here
    for name in pages:
        path = check_link(folder / name, folder)
        if path.is_file() and path.read_bytes() != report.files.get(name, "").encode():
            raise CheckpointError(f"{name} does not show what {REPORTS[0]} says")
    return "it is as it was written, and agrees with surgery.json; nothing was measured again"


def check_card(folder: Path, manifest: Manifest, report: RenderedReport | None) -> str:
    """Raises `CheckpointError` if a generated part differs."""
    measured = report.measured if report else None
    card = read_card(folder) or ""
    wrong = find_disagreement(card, manifest, measured, name=get_last_name(folder))
    wrote = report.version if report else manifest.edit.versions.get(TOOL)
    if wrong is None:
        return f"agrees with surgery.json{f' and {REPORTS[0]}' if report else ''}"
    if _is_ours(wrote):
        raise CheckpointError(f"{wrong} of {CARD} is not what surgery.json and {REPORTS[0]} give")
    return f"not compared: attn-surgery {wrote} wrote {wrong}"


def list_claims(
    folder: Path, manifest: Manifest, report: RenderedReport | None, found: ResolvedModel | None
) -> Iterator[Claim]:
    """Yields what a folder claims beyond its checks. `found`: the source, if given."""
    source = manifest.edit.source
    named = f"{source.model}{f' at commit {source.commit}' if source.commit else ''}"
    if found is None:
        yield Claim("source", f"that {named} was edited: to check it, give it as `source`")
    elif not found.has_name:
        yield Claim("source", f"its name, {named}: a folder only shows its content")
    if manifest.history:
        yield Claim("history", "the sources of earlier edits")
    if any(edit.calibration for edit in (manifest.edit, *manifest.history)):
        yield Claim("calibration", f"the text and the fits: to repeat them, {_REPEAT}")
    if manifest.is_healed:
        what = "that weights were trained on the recorded text only"
        yield Claim("healing", f"{what}: to repeat it, {_REPEAT}")
    yield Claim("versions", "the software that made the edit")
    if report:
        yield Claim(REPORTS[0], "what it measured: to measure again, run `attn-surgery evaluate`")
        if not _is_ours(report.version):
            what = f"sentences and pages, as attn-surgery {report.version} wrote them"
            yield Claim("pages", what)
    else:
        yield Claim("measurements", "there are none: to measure, run `attn-surgery evaluate`")
    unread = (RECIPE, "lm_eval") if report else (*REPORTS, RECIPE, "lm_eval")
    if extract_own_text(read_card(folder) or ""):
        yield Claim(CARD, "everything outside its generated parts")
    for name in (name for name in unread if (folder / name).exists()):
        yield Claim(name, "not read by any check")


def _is_ours(version: str | None) -> bool:
    """Whether it is the version of attn-surgery that is running."""
    return version == list_versions().get(TOOL)
