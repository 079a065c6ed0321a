"""An export made of a plan; and what becomes of one: proven, measured, published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.evaluating import check_asked, evaluation_options, lab_of, make_plan
from cli.inputs import calibration_text, fitted
from cli.options import note, unasked
from cli.progress import progress

if TYPE_CHECKING:
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.editing.preparing import Prepared
    from surgery.hub.resolved import ResolvedModel
    from surgery.publishing.upload import Push
    from surgery.record.plan_file import PlanFile


def evaluation_wanted(
    asked: dict[str, Any], model: str, with_evaluation: bool, dry_run: bool
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
    from evals.benchmarks.cache import BaselineCache
    from surgery.checkpoint.content import cache_folder

    return make_plan(asked, lab, cache=BaselineCache(cache_folder()))


def exported(
    plan: PlanFile | str,
    model: str,
    output: Path,
    *,
    layout: str = "auto",
    revision: str | None = None,
    calibration: Sequence[str] = (),
    overwrite: bool = False,
    keep: bool = False,
) -> Prepared:
    """Makes the export of a plan, or of blocks with `identity`, in `output`.

    `keep`: what is there stays if it is an export of the same edit; it is verified later. Anything
    else there is refused, as ever.
    """
    from surgery.editing.preparing import prepare, variants_of
    from surgery.exporting import write
    from surgery.record.manifest import read_manifest

    prepared = prepare(model, plan, layout=layout, revision=revision)
    made = read_manifest(output) if keep else None
    wanted = prepared.plan.selection, prepared.plan.layout.NAME
    if made is not None and (tuple(made.edit.parts), made.edit.layout) == wanted:
        note(f"{output}: was exported before")
        return prepared
    text = calibration_text(calibration, model, variants_of(plan, "identity"))
    fitting = None if text is None else fitted(prepared, text)
    with progress("export", prepared.total_bytes) as advance:
        write(prepared, output, fitting=fitting, overwrite=overwrite, progress=advance)
    return prepared


def evaluated(output: Path, source: ResolvedModel, plan: Plan) -> Report:
    """Verifies an export and evaluates it against its source; the report goes into its folder.

    The model card is written anew with the figures. Raises `OutputError` when the export does not
    verify.
    """
    from evals.evaluation.evaluation import evaluate
    from evals.evaluation.files import attach
    from surgery.errors import OutputError
    from surgery.hub.finding import find_model
    from surgery.proof.verification import verify

    verification = verify(output, source=source)
    for check in verification.checks:
        if not check.ok:
            raise OutputError(
                f"does not verify: {check.name}: {check.detail}",
                where=output,
                fix="run it again if the source changed meanwhile; else report this",
            )
    note(f"verified: {len(verification.checks)} checks hold")
    [found] = evaluate([find_model(output)], source, plan, say=note, progress=progress)
    attach(found, output)
    for warning in found.report.warnings:
        note(f"warning: {warning}")
    return found.report


def published(output: Path, repo: str) -> Push:
    """Pushes an export, private, with the report that is in it."""
    from evals.publication.report import public_report
    from surgery.publishing.upload import push

    return push(output, repo, render=public_report)
