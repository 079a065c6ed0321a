"""Makes the report of an evaluation from what it found: its figures, and sentences about them."""

from __future__ import annotations

from evals.measure.verdicts import OK, settle
from evals.report.figures import Finding, Findings, make_figures, make_tables
from evals.report.gates import check_gates
from evals.report.headline import list_warnings, summarize, write_commands, write_verdict
from surgery.card.facts import make_printable
from surgery.record.report import MOST_LETTERS, EditRecord, Limit, MeasuredModel, Report


def make_report(found: Findings) -> Report:
    """The figures and sentences of an evaluation. It holds no text of a passage."""
    gates = [check_gates(edit, found.settings) for edit in found.edits]
    figures = make_figures(found, gates)
    shown = {figure.table for figure in figures}
    return Report(
        created=found.created,
        base=MeasuredModel(name=found.base.name, provenance=found.base.provenance),
        edits=[
            _describe_edit(edit, found, [*limits.values()])
            for edit, limits in zip(found.edits, gates, strict=True)
        ],
        tables=[table for table in make_tables(found) if table.key in shown],
        figures=figures,
        front=found.front,
        map=found.map,
        settings=found.settings.model_dump(mode="json"),
        provenance=found.provenance,
        commands=write_commands(found),
    )


def _describe_edit(edit: Finding, found: Findings, limits: list[Limit]) -> EditRecord:
    """An edit and its sentences. `limits`: those that it must keep."""
    part, state = found.settings.limit, settle(one.state for one in limits)
    if state is not None and edit.edit and edit.edit.missed_alone:
        state = "missed"  # by the search that chose it, on the passages that it used
    warnings = list_warnings(edit, found.base, part)
    return EditRecord(
        name=edit.name,
        provenance=edit.provenance,
        relation=edit.relation,
        verdict=write_verdict(edit, limits, part),
        summary=summarize(edit, limits, part),
        state=state,
        passed=OK.get(state),
        chose={
            "passages": edit.chose.passages,
            "windows": edit.chose.windows,
            "taught": edit.chose.taught,
        },
        not_tried=edit.audit.not_tried if edit.audit else [],
        edit=edit.edit,
        passages=edit.passages,
        warnings=[make_printable(text)[:MOST_LETTERS] for text in warnings],
    )
