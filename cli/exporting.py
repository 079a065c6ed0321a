"""An export made of a plan; and what becomes of one: proven and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.evaluating import check_asked, evaluation_options, make_plan
from cli.options import note, unasked
from cli.progress import progress
from evals.inputs import calibration_text, fitted
from surgery.hub.embedded import lab_of

if TYPE_CHECKING:
    from evals.evaluation.plan import Plan
    from evals.evaluation.report import Report
    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.plan_file import PlanFile


def evaluation_wanted(
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


def fitted_and_written(
    prepared: Prepared, text: Text | None, output: Path | None, **options: Any
) -> Export:
    """Fits what an export needs, and makes it. `options`: of `surgery.exporting.write`."""
    from surgery.exporting import write

    fitting = None if text is None else fitted(prepared, text, progress)
    with progress("export", prepared.total_bytes) as advance:
        return write(prepared, output, fitting=fitting, progress=advance, **options)


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
    from surgery.record.manifest import read_manifest

    prepared = prepare(model, plan, layout=layout, revision=revision)
    made = read_manifest(output) if keep else None
    wanted = prepared.plan.selection, prepared.plan.layout.NAME
    if made is not None and (tuple(made.edit.parts), made.edit.layout) == wanted:
        note(f"{output}: was exported before")
        return prepared
    text = calibration_text(calibration, model, variants_of(plan, "identity"))
    fitted_and_written(prepared, text, output, overwrite=overwrite)
    return prepared


def evaluated(source: ResolvedModel, plan: Plan, *outputs: Path) -> list[Report]:
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
