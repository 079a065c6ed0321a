"""An export made of a plan; and what becomes of one: proven and measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.evaluating import evaluation_request, open_evaluation, say_warnings
from cli.options import note
from cli.progress import progress
from evals.inputs import calibration_text, fitted

if TYPE_CHECKING:
    from evals.evaluation.materials import Materials
    from evals.evaluation.report import Report
    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.plan_file import PlanFile


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
        note(f"verified: {len(verification.checks)} checks hold")
    models = [find_model(output) for output in outputs]
    found = evaluate(models, source, materials, say=note, progress=progress)
    for place, output in enumerate(outputs):
        attach(found, place, output)
    say_warnings(found.report)
    return found.report
