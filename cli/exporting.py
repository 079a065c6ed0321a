"""What becomes of an export: it is verified and evaluated, and pushed if its gates hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.evaluating import check_asked, evaluation_options, make_plan
from cli.options import note, unasked
from cli.progress import progress
from surgery.hub.embedded import lab_of

if TYPE_CHECKING:
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.exporting import Export
    from surgery.hub.resolved import ResolvedModel


def open_wanted(
    asked: dict[str, Any], model: str, revision: str | None, with_evaluation: bool, dry_run: bool
) -> Plan | None:
    """The evaluation that the options ask for, made before any work: mistakes come first."""
    if not with_evaluation:
        if any(asked[key] != value for key, value in unasked(evaluation_options).items()):
            raise click.UsageError("what to measure is for use with --evaluate")
        return None
    if dry_run:
        raise click.UsageError("--evaluate and --dry-run exclude each other")
    lab = lab_of(model)
    check_asked(asked, lab)
    return make_plan(asked, lab, models=[(model, revision)])


def evaluate_exports(source: ResolvedModel, plan: Plan, *outputs: Path) -> list[Report]:
    """Verifies exports of one source and evaluates them; each report goes into its folder.

    The model cards are written anew with the figures. Raises `OutputError` when an export does not
    verify.
    """
    from evals.evaluation.evaluation import evaluate
    from evals.evaluation.files import attach
    from surgery.errors import OutputError
    from surgery.hub.finding import find_model
    from surgery.proof.verification import verify

    for output in outputs:
        verification = verify(output, source=source, card=False)  # it is written anew
        for check in verification.checks:
            if not check.ok:
                raise OutputError(
                    f"does not verify: {check.name}: {check.detail}",
                    where=output,
                    fix="run it again if the source changed meanwhile; else report this",
                )
        note(f"verified: {len(verification.checks)} checks hold")
    models = [find_model(output) for output in outputs]
    found = evaluate(models, source, plan, say=note, progress=progress)
    for one, output in zip(found, outputs, strict=True):
        attach(one, output)
    for warning in dict.fromkeys(text for one in found for text in one.report.warnings):
        note(f"warning: {warning}")
    return [one.report for one in found]


def push_if_passed(export: Export, repo: str, passed: bool) -> dict[str, Any] | None:
    """Pushes an export to the Hub and returns what `push` says; None where a gate failed."""
    from evals.publication.report import public_report
    from surgery.publishing.upload import push

    if not passed:
        note(f"not pushed to {repo}: a gate failed")
        return None
    return push(export.output, repo, render=public_report).to_json()
