"""The folder of an evaluation: report.json, the pages made from it, lm-eval's own results."""

from __future__ import annotations

from pathlib import Path

from evals.benchmarks.running import write_results
from evals.evaluation.evaluation import Evaluation
from evals.evaluation.page import write_page
from surgery.card.file import refresh_card
from surgery.output import known_by, publish, staging_in, write_text
from surgery.record.manifest import REPORTS, UNLISTED

owned = known_by(REPORTS[0], ("verdict", "tasks", "gates"), *UNLISTED)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Writes everything into `folder`, which exists. Raises `OutputError`."""
    report = evaluation.report
    write_text(folder / REPORTS[0], report.to_text())
    write_page(report.to_dict(), folder)
    results = {"base": evaluation.base_runs, "edited": evaluation.edited_runs}
    for role, runs in results.items():
        if runs:
            write_results(folder / "lm_eval" / role, getattr(report.models, role), runs)


def attach(evaluation: Evaluation, folder: Path) -> None:
    """Puts an evaluation into the folder of the edited model, and its figures on the card there.

    `push` then takes them along. Raises `OutputError` when the folder cannot be written.
    """
    with staging_in(folder) as staging:
        write_evaluation(evaluation, staging)
        for part in sorted(staging.iterdir()):
            publish(part, folder / part.name)
    refresh_card(folder, evaluation.report.measured())
