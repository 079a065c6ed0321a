"""Writes the folder of an evaluation: report.json, its pages, and lm-eval's own results."""

from __future__ import annotations

import json
from pathlib import Path

from evals.benchmarks.running import write_results
from evals.evaluation.evaluation import Evaluation
from evals.evaluation.page import build_measurements, render_pages
from surgery.card.file import refresh_card
from surgery.output import create_staging, publish, recognize_by, write_lines, write_text
from surgery.record.manifest import REPORTS, UNLISTED

TEXTS = "passages.jsonl"
"""The passages' texts, on request. They stand beside the report and are never published."""
owned = recognize_by(REPORTS[0], ("base", "edits", "settings"), *UNLISTED, TEXTS)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes everything into an existing folder. Raises `OutputError`."""
    report = evaluation.report
    made = {REPORTS[0]: report.to_text(), **render_pages(report.to_dict())}
    for name, text in made.items():
        write_text(folder / name, text)
    if evaluation.texts:
        write_lines(folder / TEXTS, map(json.dumps, evaluation.texts))
    several = len(report.edits) > 1
    runs = {"base": (report.base.name, evaluation.base_runs)}
    for place, (edit, run) in enumerate(zip(report.edits, evaluation.edited_runs, strict=True), 1):
        runs[f"edited-{place}" if several else "edited"] = (edit.name, run)
    for part, (name, results) in runs.items():
        if results:
            write_results(folder / "lm_eval" / part, name, results)


def attach(evaluation: Evaluation, place: int, folder: Path) -> None:
    """Puts one edit's report into its model's folder, and its figures on the card there.

    `push` then publishes both. Raises `OutputError` if the folder cannot be written.
    """
    selected = evaluation.select(place)
    with create_staging(folder) as staging:
        write_evaluation(selected, staging)
        for part in sorted(staging.iterdir()):
            publish(part, folder / part.name)
    refresh_card(folder, build_measurements(selected.report))
