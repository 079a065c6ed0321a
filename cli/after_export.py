"""What `export` does with a finished export when asked: prove it, measure it, publish it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.evaluating import UNASKED, check_asked, lab_of, make_plan
from cli.options import note
from cli.progress import progress

if TYPE_CHECKING:
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.hub.resolved import ResolvedModel
    from surgery.publishing.upload import Push


def evaluation_wanted(
    asked: dict[str, Any], model: str, with_evaluation: bool, dry_run: bool
) -> Plan | None:
    """The evaluation that the options ask for, made before any work: mistakes come first."""
    if not with_evaluation:
        if any(asked[key] != unasked for key, unasked in UNASKED.items()):
            raise click.UsageError("what to measure is for use with --evaluate")
        return None
    if dry_run:
        raise click.UsageError("--evaluate and --dry-run exclude each other")
    lab = lab_of(model)
    check_asked(asked, lab)
    from evals.benchmarks.cache import BaselineCache
    from surgery.checkpoint.content import cache_folder

    return make_plan(asked, lab, cache=BaselineCache(cache_folder()))


def evaluated(output: Path, source: ResolvedModel, plan: Plan) -> Report:
    """Verifies an export and evaluates it against its source; the report goes into its folder.

    The model card is written anew with the figures. Raises `OutputError` when the export does not
    verify.
    """
    from evals.evaluation.evaluation import evaluate
    from evals.evaluation.files import attach
    from evals.evaluation.plan import Target
    from surgery.errors import OutputError
    from surgery.proof.verification import verify

    verification = verify(output, source=source)
    for check in verification.checks:
        if not check.ok:
            raise OutputError(
                f"does not verify: {check.name}: {check.detail}",
                where=output,
                fix="keep the folder and report this",
            )
    note(f"verified: {len(verification.checks)} checks hold")
    found = evaluate(Target(str(output)), Target(source), plan, say=note, progress=progress)
    attach(found, output)
    for warning in found.report.warnings:
        note(f"warning: {warning}")
    return found.report


def published(output: Path, repo: str) -> Push:
    """Pushes an export, private, with the report that is in it."""
    from evals.evaluation.publication import public_report
    from surgery.publishing.upload import push

    return push(output, repo, render=public_report)
