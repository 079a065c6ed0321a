"""What of a report is published: its figures and names, and sentences made anew from them.

So no passage's text can stand in one, whoever typed it there. What no figure tells, such as
another's description of a task and why a row was left out, stays behind.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from evals.attacks.names import attack_of
from evals.attacks.result import Audit
from evals.benchmarks.tasks import asked
from evals.evaluation.card import shown_on_card
from evals.evaluation.comparing import verdict_of
from evals.evaluation.conclusions import edit_of
from evals.evaluation.headline import write_sentences
from evals.evaluation.page import pages
from evals.evaluation.report import (
    EditReport,
    EditSummary,
    FrontPoint,
    HeldOut,
    Metric,
    Report,
    TaskResult,
)
from evals.memorization.comparison import warnings_of as extraction_warnings
from evals.publication.consistency import Difference, differing, recomputed
from evals.publication.text import texts_in
from evals.samples.windows import SELECTIVITY
from evals.statistics import Interval
from surgery.errors import OutputError, SurgeryError
from surgery.proof.claims import RenderedReport
from surgery.record.manifest import REPORTS, Manifest, versions
from surgery.selection import Part, format_selection
from surgery.untrusted import guard
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""Blocks, heads and variant: what `conclusions.read_front` calls a point of a search."""
MATPLOTLIB = metadata.version("matplotlib")
_C = TypeVar("_C", TaskResult, Metric, HeldOut)


def publication(report: Mapping[str, Any], where: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The report as it may be published, and its pages by name. `where`: the file it is from.

    Raises ValueError for what is no report, and `OutputError` where its figures contradict each
    other, or where text of a passage may stand in it: in a sentence that its figures do not tell,
    or in place of a name.
    """
    given = Report.model_validate(report)
    check_figures(given, where, OutputError)
    sent = told(_without_notes(given)).to_dict()
    shown = next(chain((one.path for one in _untold(given)), texts_in(sent)), None)
    if shown is not None:
        raise OutputError(
            f"{shown} may show the text of passages, which is never published",
            where=where,
            fix="evaluate again without `show_text=True`, or remove the report",
        )
    for edit in sent["edits"]:
        for name, task in edit["tasks"].items():
            task["description"] = asked(name, {})
    return sent, pages(sent)


def public_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """`publication` for `push`. `manifest`: surgery.json of the model that it must be of."""
    _check_model(Report.model_validate(report), where, manifest)
    sent, made = publication(report, where)
    return _told(Report.model_validate(sent), made)


def own_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """A report as it is, for `verify`: it may show text, and another version may have told it."""
    given = Report.model_validate(report)
    _check_model(given, where, manifest)
    check_figures(given, where, OutputError)
    told_here = given.provenance.versions.get("attn-surgery") == versions().get("attn-surgery")
    untold = next(_untold(given), None) if told_here else None
    if untold is not None:
        raise OutputError(f"{untold.path} is not what its figures tell", where=where)
    return _told(given, pages(given.to_dict()))


def _told(report: Report, made: Mapping[str, str]) -> RenderedReport:
    recorded = report.provenance.versions
    version, drawn_by = recorded.get("attn-surgery"), recorded.get("matplotlib", MATPLOTLIB)
    if drawn_by != MATPLOTLIB:  # its pictures differ, so the page cannot be made again here
        version = f"{version} with matplotlib {drawn_by}"
    return RenderedReport({REPORTS[0]: report.to_text(), **made}, shown_on_card(report), version)


def _check_model(report: Report, where: Path, manifest: bytes) -> None:
    """Refuses a report of another model, or one that compares with anything but its source."""
    recorded = Manifest.model_validate_json(manifest, strict=True)
    ours, base = hashlib.sha256(manifest).hexdigest(), report.base.provenance
    if [edit.provenance.get("manifest_sha256") for edit in report.edits] != [ours]:
        raise OutputError("is of another model", where=where, fix="evaluate this one, or remove it")
    sources = [edit.source for edit in (recorded.edit, *recorded.history)]
    named = {(source.model, source.commit) for source in sources if source.commit}
    contents = {source.content for source in sources if source.content}
    is_source = base.get("content") in contents
    is_source = is_source or (base.get("model"), base.get("commit")) in named
    (edit,) = report.edits
    if edit.relation != "source" or not is_source:
        what = "compares with a model that is not known to be the source"
        raise OutputError(what, where=where, fix="evaluate against the source, or remove it")
    if edit.edit != edit_of(recorded):
        what = "edit is not that of surgery.json"
        raise OutputError(what, where=where, fix="evaluate again, or remove it")


def check_figures(report: Report, where: object, error: type[SurgeryError]) -> None:
    """Raises `error` where a figure is not what others make it: see `recomputed`."""
    said = report.to_dict()
    untold = (one for one in _untold(report) if not isinstance(one.said, str | list))
    fix = "evaluate again, or remove it"
    with guard(error, "is no report", where, fix):  # what is no number, or a division by zero
        found = next(chain(differing(said, recomputed(said)), untold), None)
    if found is not None:
        raise error(f"contradicts itself: {found}", where=where, fix=fix)


def told(report: Report) -> Report:
    """The report with every sentence made anew: of one that `evaluate` wrote, the same."""
    figures = {
        "edits": [_of_edit_report(edit) for edit in report.edits],
        "front": [_of_front(point) for point in report.front],
    }
    return write_sentences(report.model_copy(update=figures))


def _of_edit_report(edit: EditReport) -> EditReport:
    every, tasks = edit.all_passages, {}
    for name, task in edit.tasks.items():
        metrics = {key: _with_verdict(one, one.ci95) for key, one in task.metrics.items()}
        tasks[name] = _with_verdict(task, task.ci95).model_copy(update={"metrics": metrics})
    figures = {
        "tasks": tasks,
        "extraction": edit.extraction and _of_extraction(edit.extraction),
        "audit": edit.audit and _of_audit(edit.audit),
        "heldout": _of_heldout(edit.heldout),
        "all_passages": every and every.model_copy(update={"heldout": _of_heldout(every.heldout)}),
        "edit": edit.edit and _of_edit(edit.edit),
    }
    return edit.model_copy(update=figures)


def _of_heldout(heldout: HeldOut | None) -> HeldOut | None:
    return heldout and _with_verdict(heldout, heldout.difference.ci95)


def _with_verdict(compared: _C, ci95: tuple[float, float]) -> _C:
    said = verdict_of(compared.outcome, Interval(*ci95), compared.n)
    return compared.model_copy(update={"verdict": said})


def _of_extraction(extraction: dict[str, Any]) -> dict[str, Any]:
    made = {**extraction, "warnings": extraction_warnings(extraction)}
    if selectivity := extraction["paired"].get("selectivity"):
        defined = {**selectivity, "definition": SELECTIVITY}
        made["paired"] = {**extraction["paired"], "selectivity": defined}
    return made


def _of_audit(audit: Audit) -> Audit:
    attacks = [one.model_copy(update=attack_of(one.name).description) for one in audit.attacks]
    return audit.model_copy(update={"attacks": attacks})


def _of_edit(edit: EditSummary) -> EditSummary:
    parts = [Part(part["block"], tuple(part["heads"]), part["variant"]) for part in edit.parts]
    if edit.num_heads is None:
        raise ValueError("edit.num_heads: expected a number")
    return edit.model_copy(update={"drop_attn": format_selection(parts, edit.num_heads)})


def _of_front(point: FrontPoint) -> FrontPoint:
    return point if _FRONT.fullmatch(point.label) else point.model_copy(update={"label": ""})


def _without_notes(report: Report) -> Report:
    """The report without what others wrote in words: of tasks, and about rows of the samples."""
    edits = []
    for edit in report.edits:
        tasks = {
            name: task.model_copy(update={"description": None}) for name, task in edit.tasks.items()
        }
        extraction = edit.extraction
        if extraction is not None:
            samples = {
                key: [{"id": row["id"]} for row in value] if isinstance(value, list) else value
                for key, value in extraction["samples"].items()
            }
            extraction = {**extraction, "samples": samples}
        edits.append(edit.model_copy(update={"tasks": tasks, "extraction": extraction}))
    return report.model_copy(update={"edits": edits})


def _untold(report: Report) -> Iterator[Difference]:
    """Where it is not what its own figures tell."""
    yield from differing(report.to_dict(), told(report).to_dict())
