"""What of a report is published: its figures and names, and sentences made anew from them.

Text of a passage can so stand in none of them, whoever typed it there. What no figure tells, such
as another's description of a task and why a row was left out, stays behind.
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
from evals.publication.text import texts_in
from evals.samples.windows import SELECTIVITY
from evals.statistics import Interval
from surgery.errors import OutputError
from surgery.publishing.publishable import PublicReport
from surgery.record.manifest import REPORTS
from surgery.selection import Part, format_selection
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""Blocks, heads and variant: what `conclusions.read_front` calls a point of a search."""
_C = TypeVar("_C", Task, Metric, HeldOut)


def publication(report: Mapping[str, Any], where: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The report as it may be published, and its pages by name. `where`: the file it is from.

    Raises ValueError for what is no report, and `OutputError` where text of a passage may stand in
    it: in a sentence that its figures do not tell, or in place of a name.
    """
    given = Report.model_validate(report)
    sent = told(_without_notes(given)).to_dict()
    untold = _differing(given.to_dict(), told(given).to_dict())
    shown = next(chain(untold, texts_in(sent)), None)
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


def told(report: Report) -> Report:
    """The report with every sentence made anew: of one that `evaluate` wrote, the same."""
    heldout = _of_heldout(report.heldout)
    every = report.all_passages
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
        "all_passages": every and every.model_copy(update={"heldout": _of_heldout(every.heldout)}),
        "edit": report.edit and _of_edit(report.edit),
    }
    return with_sentences(report.model_copy(update=figures), front)


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


def _differing(said: Any, made: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Where two reports differ: keys, with dots."""
    if isinstance(said, dict) and isinstance(made, dict) and said.keys() == made.keys():
        for key in said:
            yield from _differing(said[key], made[key], (*path, key))
    elif isinstance(said, list) and isinstance(made, list) and len(said) == len(made):
        for one, other in zip(said, made, strict=True):
            yield from _differing(one, other, path)
    elif said != made:
        yield ".".join(path)
