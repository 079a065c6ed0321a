"""What becomes of an export: it is verified and evaluated, and pushed if its gates hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.evaluating import evaluation_request, open_evaluation, say_warnings
from cli.options import note
from cli.progress import progress

if TYPE_CHECKING:
    from evals.evaluation.materials import Materials
    from evals.evaluation.report import Report
    from surgery.exporting import Export
    from surgery.hub.resolved import ResolvedModel


def open_wanted(
    asked: dict[str, Any], model: str, revision: str | None, with_evaluation: bool, dry_run: bool
) -> Materials | None:
    """What the options ask to evaluate, opened before any work: mistakes come first."""
    if not with_evaluation:
        context = click.get_current_context()
        given = (context.get_parameter_source(name) for name in asked)
        if any(source not in (None, ParameterSource.DEFAULT) for source in given):
            raise click.UsageError("what to measure is for use with --evaluate")
        return None
    if dry_run:
        raise click.UsageError("--evaluate and --dry-run exclude each other")
    request = evaluation_request(asked, models=(model,), baseline=model)
    return open_evaluation(request, [(model, revision)])


def evaluate_exports(source: ResolvedModel, materials: Materials, *outputs: Path) -> Report:
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
        note(f"verified: {len(verification.checks)} checks passed")
    models = [find_model(output) for output in outputs]
    found = evaluate(models, source, materials, say=note, progress=progress)
    for place, output in enumerate(outputs):
        attach(found, place, output)
    say_warnings(found.report)
    return found.report


def push_if_passed(export: Export, repo: str, passed: bool) -> dict[str, Any] | None:
    """Pushes an export to the Hub and returns what `push` says; None where a gate failed."""
    from evals.publication.report import render_report
    from surgery.publishing.upload import push

    if not passed:
        note(f"not pushed to {repo}: a gate failed")
        return None
    return push(export.output, repo, render=render_report).to_json()
