"""What of a report is published: its figures and names, and sentences made anew from them.

So no passage's text can stand in one, whoever typed it there. What no figure tells, such as
another's description of a task and why a row was left out, stays behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from evals.attacks.report import described
from evals.attacks.result import Audit
from evals.benchmarks.tasks import asked
from evals.evaluation.comparing import verdict_of
from evals.evaluation.headline import with_sentences
from evals.evaluation.page import pages
from evals.evaluation.report import Edit, HeldOut, Metric, Point, Report, Task
from evals.memorization.comparison import warnings_of as extraction_warnings
from evals.publication.consistency import Difference, differing, recomputed
from evals.publication.text import texts_in
from evals.samples.windows import SELECTIVITY
from evals.statistics import Interval
from surgery.errors import OutputError, SurgeryError
from surgery.publishing.publishable import PublicReport
from surgery.record.manifest import REPORTS
from surgery.selection import Part, format_selection
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""Blocks, heads and variant: what `conclusions.read_front` calls a point of a search."""
_C = TypeVar("_C", Task, Metric, HeldOut)


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
    for name, task in sent["tasks"].items():
        task["description"] = asked(name, {})
    return sent, pages(sent)


def public_report(report: Mapping[str, Any], where: Path) -> PublicReport:
    """`publication` for `push`."""
    sent, made = publication(report, where)
    checked = Report.model_validate(sent)
    return PublicReport(
        files={REPORTS[0]: checked.to_text(), **made},
        measured=checked.measured(),
        manifest_sha256=checked.provenance.edited.get("manifest_sha256"),
        of_source=checked.relation == "source",
    )


def check_figures(report: Report, where: object, error: type[SurgeryError]) -> None:
    """Raises `error` where a figure is not what others make it: see `recomputed`."""
    said = report.to_dict()
    untold = (one for one in _untold(report) if not isinstance(one.said, str | list))
    found = next(chain(differing(said, recomputed(said)), untold), None)
    if found is not None:
        fix = "evaluate again, or remove it"
        raise error(f"contradicts itself: {found}", where=where, fix=fix)


def told(report: Report) -> Report:
    """The report with every sentence made anew: of one that `evaluate` wrote, the same."""
    heldout = report.heldout and _with_verdict(report.heldout, report.heldout.difference.ci95)
    tasks = {}
    for name, task in report.tasks.items():
        metrics = {key: _with_verdict(one, one.ci95) for key, one in task.metrics.items()}
        tasks[name] = _with_verdict(task, task.ci95).model_copy(update={"metrics": metrics})
    points = report.trade_off.points if report.trade_off else []
    front = [_of_front(point) for point in points if point.kind == "front"]
    figures = {
        "tasks": tasks,
        "extraction": report.extraction and _of_extraction(report.extraction),
        "audit": report.audit and _of_audit(report.audit),
        "heldout": heldout,
        "edit": report.edit and _of_edit(report.edit),
    }
    return with_sentences(report.model_copy(update=figures), front)


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
    attacks = [one.model_copy(update=described(one.name)) for one in audit.attacks]
    return audit.model_copy(update={"attacks": attacks})


def _of_edit(edit: Edit) -> Edit:
    parts = [Part(part["block"], tuple(part["heads"]), part["variant"]) for part in edit.parts]
    if edit.num_heads is None:
        raise ValueError("edit.num_heads: expected a number")
    return edit.model_copy(update={"drop_attn": format_selection(parts, edit.num_heads)})


def _of_front(point: Point) -> Point:
    return point if _FRONT.fullmatch(point.label) else point.model_copy(update={"label": ""})


def _without_notes(report: Report) -> Report:
    """The report without what others wrote in words: of tasks, and about rows of the samples."""
    tasks = {
        name: task.model_copy(update={"description": None}) for name, task in report.tasks.items()
    }
    extraction = report.extraction
    if extraction is not None:
        samples = {
            key: [{"id": row["id"]} for row in value] if isinstance(value, list) else value
            for key, value in extraction["samples"].items()
        }
        extraction = {**extraction, "samples": samples}
    return report.model_copy(update={"tasks": tasks, "extraction": extraction})


def _untold(report: Report) -> Iterator[Difference]:
    """Where it is not what its own figures tell."""
    return differing(report.to_dict(), told(report).to_dict())
