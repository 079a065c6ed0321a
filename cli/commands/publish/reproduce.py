"""attn-surgery reproduce"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import (
    control_option,
    echo,
    json_option,
    note,
    overwrite_option,
    print_json,
    revision_option,
    samples_option,
)

if TYPE_CHECKING:
    from cli.repeated_evaluation import Figure
    from surgery.proof.reproduction import FileResult


@click.command("reproduce")
@click.argument("model")
@revision_option
@click.option(
    "--source", metavar="MODEL", help="A copy of the source.  [default: as recorded, or the Hub's]"
)
@click.option(
    "--calibration",
    multiple=True,
    metavar="FILE",
    help="The text that mean and linear were fitted on; may be repeated.  [default: a lab model's]",
)
@click.option("--output", metavar="DIR", help="Keep the repeated export in DIR.")
@overwrite_option
@click.option(
    "--evaluate",
    is_flag=True,
    help="Also repeat the measurements of MODEL's report.json: each figure must come out within "
    "its recorded interval.",
)
@samples_option("The passages that were measured.  [default: as recorded]")
@control_option("The held-out text that was measured; may be repeated.  [default: as recorded]")
@json_option
def command(
    model: str,
    revision: str | None,
    source: str | None,
    calibration: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    evaluate: bool,
    samples: str | None,
    controls: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Repeat the edit that MODEL records and compare the result with MODEL, file by file.

    MODEL is an exported folder or a published one. Its source is fetched at the recorded commit.
    identity and zero must repeat bit for bit; mean and linear, which were fitted, within a
    tolerance where libraries differ. Of a published model no weights are downloaded but to compare
    fitted tensors. Exit code 1 when a file or a figure differs.
    """
    from cli.progress import progress
    from cli.repeated_evaluation import measured_again, plan_again
    from evals.inputs import calibration_text, fitted
    from surgery.exporting import check_target
    from surgery.hub.embedded import lab_of
    from surgery.proof.original import open_original
    from surgery.proof.reproduction import reproduce

    if not evaluate and (samples or controls):
        raise click.UsageError("what was measured is for use with --evaluate")
    if output is not None:
        check_target(model, Path(output), overwrite=overwrite, say=note)
    original = open_original(model, revision)
    if evaluate:
        from evals.evaluation.report import read_report

        report = read_report(original.read("report.json"))
        plan = plan_again(report, samples, controls)
    recorded = original.manifest.edit.source.model
    variants = [part.variant for part in original.manifest.edit.parts]
    text = calibration_text(calibration, recorded, variants)
    if text is not None:
        text = text.as_in(original.manifest.edit.calibration)
    if source is None:
        source = lab_of(recorded)
    with ExitStack() as stack:
        if output is None:
            folder = tempfile.TemporaryDirectory(prefix="attn-surgery-")
            output = str(Path(stack.enter_context(folder)) / "repeated")
        with progress("reproduce", None) as advance:
            result = reproduce(
                original,
                output,
                source=source,
                overwrite=overwrite,
                fit=None if text is None else lambda prepared: fitted(prepared, text, progress),
                progress=advance,
            )
        figures = []
        if evaluate:
            where = (Path(output), result.source, original.manifest)
            figures = measured_again(report, plan, *where)
    differing = [file.name for file in result.files if not file.ok]
    differing += [figure.name for figure in figures if not figure.ok]
    if as_json:
        measurements = [figure.to_json() for figure in figures] if evaluate else None
        reproduced = {"reproduced": not differing, "measurements": measurements}
        print_json({**result.to_json(), **reproduced})
    else:
        _show(result.files, figures)
    for name, (then, now) in result.environment.items():
        note(f"{name}: {then or 'none'} when it was made, {now or 'none'} now")
    if result.source_is_edited:
        note(f"the source, {recorded}, is itself an edited model: reproduce it too")
    if differing:
        note(f"error: {model}: is not reproduced: {differing[0]} differs")
        raise click.exceptions.Exit(1)
    if not as_json:
        exactly = "bit for bit" if result.exact else "within the tolerance of 1 %"
        measured = f", {len(figures)} figures within their intervals" if evaluate else ""
        echo(f"{model}: {len(result.files)} files reproduced {exactly} from {recorded}{measured}")


def _show(files: Sequence[FileResult], figures: Sequence[Figure]) -> None:
    for file in files:
        echo(f"{'equal  ' if file.equal else 'close  ' if file.ok else 'DIFFERS'} {file.name}")
    for figure in figures:
        low, high = figure.ci95
        echo(
            f"{'within ' if figure.ok else 'DIFFERS'} {figure.name}: {figure.repeated:.4f}, "
            f"recorded {figure.recorded:.4f} [{low:.4f}, {high:.4f}]"
        )
