"""A report as `verify` reads it and `push` sends it: its figures checked, its sentences made anew.

So no sentence can hold the text of a passage, whoever typed it there; and the schema has no other
place for one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from evals.attacks.names import make_attack
from evals.attacks.result import Audit
from evals.evaluation.card import build_measurements
from evals.evaluation.comparing import describe_outcome
from evals.evaluation.conclusions import summarize_edit
from evals.evaluation.headline import write_sentences
from evals.evaluation.page import render_pages
from evals.evaluation.report import (
    EditReport,
    FrontPoint,
    HeldOut,
    Metric,
    Report,
    TaskResult,
)
from evals.memorization.comparison import list_extraction_warnings as extraction_warnings
from evals.publication.consistency import recompute_report
from evals.publication.differences import find_differences
from evals.publication.schema import check_open_parts
from evals.samples.windows import SELECTIVITY
from evals.statistics import Interval
from surgery.errors import OutputError
from surgery.proof.claims import TOOL, RenderedReport
from surgery.record.manifest import REPORTS, Manifest, versions
from surgery.untrusted import guard
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""Blocks, heads and variant: what `conclusions.read_front` calls a point of a search."""
_C = TypeVar("_C", TaskResult, Metric, HeldOut)


def render_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """A report.json, checked, with its sentences and pages made anew, for `verify` and `push`.

    `where`: the file it is from; `manifest`: surgery.json of the model that it must be of. Raises
    as `check_report`, and `OutputError` for a report of another model.
    """
    _check_model(Report.model_validate(report), where, manifest)
    made = check_report(report, where)
    files = {REPORTS[0]: made.to_text(), **render_pages(made.to_dict())}
    return RenderedReport(files, build_measurements(made), made.provenance.versions.get(TOOL))


def check_report(report: Mapping[str, Any], where: Path) -> Report:
    """A report whose figures agree, with its sentences made anew. `where`: the file it is from.

    Raises ValueError for what is no report or holds text, and `OutputError` where its figures
    contradict each other or, if this version wrote it, where a sentence is not what they tell.
    """
    given = Report.model_validate(report)
    check_open_parts(given)
    check_figures(given, where)
    made = write_all_sentences(given)
    said = next(find_differences(given.to_dict(), made.to_dict()), None)
    if said is not None and given.provenance.versions.get(TOOL) == versions().get(TOOL):
        what = f"{said.path} is not what its figures tell"
        raise OutputError(what, where=where, fix="evaluate again, or remove it")
    return made


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
    if edit.edit != summarize_edit(recorded):
        what = "edit is not that of surgery.json"
        raise OutputError(what, where=where, fix="evaluate again, or remove it")


def check_figures(report: Report, where: object) -> None:
    """Raises `OutputError` where a figure is not what others make it: see `recompute_report`."""
    said, fix = report.to_dict(), "evaluate again, or remove it"
    with guard(OutputError, "is no report", where, fix):  # no number, or a division by zero
        made = write_all_sentences(report).to_dict()
        figures = (
            one for one in find_differences(said, made) if not isinstance(one.said, str | list)
        )
        found = next(chain(find_differences(said, recompute_report(said)), figures), None)
    if found is not None:
        raise OutputError(f"contradicts itself: {found}", where=where, fix=fix)


def write_all_sentences(report: Report) -> Report:
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
    }
    return edit.model_copy(update=figures)


def _of_heldout(heldout: HeldOut | None) -> HeldOut | None:
    return heldout and _with_verdict(heldout, heldout.difference.ci95)


def _with_verdict(compared: _C, ci95: tuple[float, float]) -> _C:
    said = describe_outcome(compared.outcome, Interval(*ci95), compared.n)
    return compared.model_copy(update={"verdict": said})


def _of_extraction(extraction: dict[str, Any]) -> dict[str, Any]:
    made = {**extraction, "warnings": extraction_warnings(extraction)}
    if selectivity := extraction["paired"].get("selectivity"):
        defined = {**selectivity, "definition": SELECTIVITY}
        made["paired"] = {**extraction["paired"], "selectivity": defined}
    return made


def _of_audit(audit: Audit) -> Audit:
    attacks = [one.model_copy(update=make_attack(one.name).description) for one in audit.attacks]
    return audit.model_copy(update={"attacks": attacks})


def _of_front(point: FrontPoint) -> FrontPoint:
    return point if _FRONT.fullmatch(point.label) else point.model_copy(update={"label": ""})
