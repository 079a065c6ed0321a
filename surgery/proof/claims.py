"""What stands beside a model: report and card agree with the manifest, and the rest is only said.

A report's figures cannot be proved from the files, but they must agree with each other, and the
card must show them and nothing else. Whatever no check reads is named as a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.card.file import read_card
from surgery.card.metadata import Measurements
from surgery.card.text import extract_own_text, find_disagreement
from surgery.checkpoint.source import CARD, MANIFEST, own_file
from surgery.errors import CheckpointError, ManifestError, OutputError
from surgery.hub.finding import last_name
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import RECIPE, REPORTS, Manifest, versions
from surgery.untrusted import guard, read_bytes, read_json

TOOL = "attn-surgery"


@dataclass(frozen=True)
class RenderedReport:
    """A report that agrees with itself and with the manifest.

    `files`: name → text of report.json and its pages, made anew from its figures; `measured`: what
    the card shows of it; `version`: of the attn-surgery that wrote it.
    """

    files: Mapping[str, str]
    measured: Measurements | None
    version: str | None


Render = Callable[[Mapping[str, Any], Path, bytes], RenderedReport]
"""The content of a report.json, the file it is from, and the manifest of its model → the report.

Raises ValueError for what is no report, and `OutputError` where it contradicts itself or the
manifest, or holds what no report may hold.
"""


@dataclass(frozen=True)
class Claim:
    """Something that a folder says, and that no check proves."""

    name: str
    detail: str


def read_report_in(
    place: Path, folder: Path, render: Render, *, needed: bool = False
) -> RenderedReport | None:
    """The report in `place` about the model in `folder`; None where there is none."""
    where = place / REPORTS[0]
    found = read_json(own_file(where, place), needed=needed)
    if not found:
        return None
    with guard(OutputError, "is no report", where, "evaluate again, or remove it"):
        return render(found, where, read_bytes(folder / MANIFEST, ManifestError))


def check_report(folder: Path, report: RenderedReport) -> str:
    """Raises `CheckpointError` where a page shows anything else than the report."""
    for name in REPORTS[1:] if _is_ours(report.version) else ():  # another's cannot be drawn here
        path = own_file(folder / name, folder)
        if path.is_file() and path.read_bytes() != report.files.get(name, "").encode():
            raise CheckpointError(f"{name} does not show what {REPORTS[0]} says")
    return "its figures agree with each other and with surgery.json; not measured again"


def check_card(folder: Path, manifest: Manifest, report: RenderedReport | None) -> str:
    """Raises `CheckpointError` where a generated part says anything else."""
    measured = report.measured if report else None
    card = read_card(folder) or ""
    wrong = find_disagreement(card, manifest, measured, name=last_name(folder))
    wrote = report.version if report else manifest.edit.versions.get(TOOL)
    if wrong is None:
        return (
            f"agrees with surgery.json and {REPORTS[0]}" if report else "agrees with surgery.json"
        )
    if _is_ours(wrote):
        raise CheckpointError(f"{wrong} of {CARD} is not what surgery.json and {REPORTS[0]} give")
    return f"not compared: attn-surgery {wrote} wrote {wrong}"


def list_claims(
    folder: Path, manifest: Manifest, report: RenderedReport | None, found: ResolvedModel | None
) -> Iterator[Claim]:
    """What a folder says beyond its checks. `found`: the source, if it was given."""
    source = manifest.edit.source
    named = f"{source.model}{f' at commit {source.commit}' if source.commit else ''}"
    if found is None:
        yield Claim("source", f"that {named} was edited: give it as `source`")
    elif not found.has_name:
        yield Claim("source", f"its name, {named}: a folder shows its content alone")
    if manifest.history:
        yield Claim("history", "the sources of earlier edits")
    if any(edit.calibration for edit in (manifest.edit, *manifest.history)):
        yield Claim("calibration", "the text and the fits: `attn-surgery reproduce` repeats them")
    yield Claim("versions", "what the edit was made with")
    if report:
        yield Claim(REPORTS[0], "what it measured: `attn-surgery evaluate` measures again")
        if not _is_ours(report.version):
            yield Claim(
                "pages", f"sentences and pages, as attn-surgery {report.version} wrote them"
            )
    else:
        yield Claim("measurements", "there are none: `attn-surgery evaluate` takes them")
    unread = (RECIPE, "lm_eval") if report else (*REPORTS, RECIPE, "lm_eval")
    if extract_own_text(read_card(folder) or ""):
        yield Claim(CARD, "what stands outside its generated parts")
    for name in (name for name in unread if (folder / name).exists()):
        yield Claim(name, "no check reads it")


def _is_ours(version: str | None) -> bool:
    """Whether that is the version of attn-surgery that runs here."""
    return version == versions().get(TOOL)
