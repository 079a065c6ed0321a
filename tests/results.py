"""Reads what `extract`, `audit`, and `evaluate` print and write, and makes reports alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Outcome

from evals.measure.attacks.trying import AttackPlan, AuditedModel, measure_attacks
from evals.measure.naming import name_figures
from evals.table.measured import measure_share
from evals.table.words import render
from evals.table.words.view import View
from surgery.record.measured import Measured, On
from surgery.record.report import EditRecord, Report


def read_report(found: Outcome | Path) -> Report:
    """The report that a command printed with --json, or wrote into a folder."""
    text = (found / "report.json").read_text() if isinstance(found, Path) else found.stdout
    return Report.model_validate_json(text)


def take(report: Report, name: str, of: str = "edited", on: On | None = None) -> Measured:
    """A figure that must be there."""
    row = report.find(name, of, on)
    assert row is not None, (name, of, on)
    return row


def count(report: Report, attack: str, of: str = "edited", on: On | None = None) -> int:
    """How many passages an attack recovers."""
    found = take(report, f"recovered.{attack}", of, on).details["count"]
    assert isinstance(found, int)
    return found


def list_attacks(report: Report) -> list[str]:
    """Those that were tried, in order."""
    return [str(one.details["attack"]) for one in report.names.values() if "attack" in one.details]


def without_times(report: Report) -> dict[str, Any]:
    """The object, without when it was made and how long attacks took."""
    found = report.to_dict()
    del found["created"]
    for row in (*found["figures"], *found["limits"]):
        row["details"].pop("seconds", None)
    return found


def compare(plan: AttackPlan, base: AuditedModel, edited: AuditedModel) -> list[Measured]:
    """What attacks recover of all passages."""
    every = np.ones(len(plan.passages), dtype=np.bool_)
    return list(measure_attacks(plan, base, edited, every, "edited", "all"))


def say_attacked(rows: Sequence[Measured]) -> list[str]:
    """What a verdict says of attacks that have these rows."""
    figures = [measure_share("recited", np.zeros(3, dtype=np.bool_), on="all"), *rows]
    report = Report.model_construct(
        command="audit", names=name_figures(figures), figures=figures, limits=[],
        base=None, twin=None, settings={},
    )  # fmt: skip
    known: dict[str, Any] = {"skipped": {}, "not_tried": [], "chose": {}, "edit": None}
    edit = EditRecord.model_construct(of="edited", relation="source", **known)
    return render("verdict", view=View(report, edit))
