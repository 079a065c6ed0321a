"""Checks a report's seal and writes its sentences again, for `verify` and `push`.

So no sentence can hold a passage's text, whoever typed it there, and the schema has no other place
for one. The seal shows that a report was changed after it was written. It is no signature: nothing
here can know whether a passage was recited.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from evals.attacks.attack import Attack
from evals.attacks.names import list_untried, make_attack
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
    seal_report,
)
from evals.memorization.comparison import list_extraction_warnings as extraction_warnings
from evals.publication.schema import check_open_parts
from evals.samples.windows import SELECTIVITY
from evals.statistics import Interval
from surgery.errors import MeasurementError, OutputError
from surgery.proof.claims import TOOL, RenderedReport
from surgery.record.manifest import REPORTS, Manifest
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""The label of a search's point, from `conclusions.read_search`: blocks, heads and variant."""
_C = TypeVar("_C", TaskResult, Metric, HeldOut)


def render_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """Checks a report.json and writes its sentences and pages again.

    `where`: its file; `manifest`: surgery.json of the model that it must belong to. Raises as
    `check_report`, and `OutputError` for the report of another model.
    """
    _check_model(Report.model_validate(report), where, manifest)
    made = check_report(report, where)
    files = {REPORTS[0]: made.to_text(), **render_pages(made.to_dict())}
    return RenderedReport(files, build_measurements(made), made.provenance.versions.get(TOOL))


def check_report(report: Mapping[str, Any], where: Path) -> Report:
    """Checks a report's seal and writes its sentences again. `where`: its file.

    Raises ValueError for an invalid report or one that holds text, and `OutputError` for one that
    was changed after it was written.
    """
    given = Report.model_validate(report)
    check_open_parts(given)
    if given.seal != seal_report(report):
        what = "was changed after it was measured"
        raise OutputError(what, where=where, fix="evaluate again, or remove it")
    return write_all_sentences(given)


def _check_model(report: Report, where: Path, manifest: bytes) -> None:
    """Refuses the report of another model, and one whose base is not the model's source."""
    recorded = Manifest.model_validate_json(manifest, strict=True)
    ours, base = hashlib.sha256(manifest).hexdigest(), report.base.provenance
    if [edit.provenance.get("manifest_sha256") for edit in report.edits] != [ours]:
        raise OutputError(
            "belongs to another model", where=where, fix="evaluate this one, or remove it"
        )
    sources = [edit.source for edit in (recorded.edit, *recorded.history)]
    named = {(source.model, source.commit) for source in sources if source.commit}
    contents = {source.content for source in sources if source.content}
    is_source = base.get("content") in contents
    is_source = is_source or (base.get("model"), base.get("commit")) in named
    (edit,) = report.edits
    if edit.relation != "source" or not is_source:
        what = "compares with a model that is not recorded as the source"
        raise OutputError(what, where=where, fix="evaluate against the source, or remove it")
    if edit.edit != summarize_edit(recorded):
        what = "edit differs from the one in surgery.json"
        raise OutputError(what, where=where, fix="evaluate again, or remove it")


def write_all_sentences(report: Report) -> Report:
    """Writes every sentence again. An untouched report stays the same."""
    figures = {
        "edits": [_rewrite_edit(edit) for edit in report.edits],
        "front": [_rewrite_front(point) for point in report.front],
    }
    return write_sentences(report.model_copy(update=figures))


def _rewrite_edit(edit: EditReport) -> EditReport:
    every, healed, tasks = edit.all_passages, edit.healed_base, {}
    for name, task in edit.tasks.items():
        metrics = {key: _rewrite_verdict(one, one.ci95) for key, one in task.metrics.items()}
        tasks[name] = _rewrite_verdict(task, task.ci95).model_copy(update={"metrics": metrics})
    figures = {
        "tasks": tasks,
        "extraction": edit.extraction and _rewrite_extraction(edit.extraction),
        "audit": edit.audit and _rewrite_audit(edit.audit),
        "heldout": _rewrite_heldout(edit.heldout),
        "healed_base": healed
        and healed.model_copy(update={"heldout": _rewrite_heldout(healed.heldout)}),
        "all_passages": every
        and every.model_copy(update={"heldout": _rewrite_heldout(every.heldout)}),
    }
    return edit.model_copy(update=figures)


def _rewrite_heldout(heldout: HeldOut | None) -> HeldOut | None:
    return heldout and _rewrite_verdict(heldout, heldout.difference.ci95)


def _rewrite_verdict(compared: _C, ci95: tuple[float, float]) -> _C:
    said = describe_outcome(compared.outcome, Interval(*ci95), compared.n)
    return compared.model_copy(update={"verdict": said})


def _rewrite_extraction(extraction: dict[str, Any]) -> dict[str, Any]:
    made = {**extraction, "warnings": extraction_warnings(extraction)}
    if selectivity := extraction["paired"].get("selectivity"):
        defined = {**selectivity, "definition": SELECTIVITY}
        made["paired"] = {**extraction["paired"], "selectivity": defined}
    return made


def _rewrite_audit(audit: Audit) -> Audit:
    attacks = [one.model_copy(update=_find(one.name).description) for one in audit.attacks]
    tried = [one.name for one in attacks if one.edited is not None]
    skipped = {name: _find(name).needs for name in audit.skipped}
    update = {"attacks": attacks, "skipped": skipped, "not_tried": list_untried(tried)}
    return audit.model_copy(update=update)


def _find(name: str) -> Attack:
    """One of our attacks. A report is data, so another's own attack is never imported."""
    try:
        return make_attack(name)
    except MeasurementError:
        what = f"holds an attack that is not part of attn-surgery, {name!r}"
        raise OutputError(what, fix="evaluate again without it") from None


def _rewrite_front(point: FrontPoint) -> FrontPoint:
    return point if _FRONT.fullmatch(point.label) else point.model_copy(update={"label": ""})
