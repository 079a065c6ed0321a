"""attn-surgery reproduce"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.terminal import echo, note, print_json


@click.command("reproduce")
@click.argument("model")
@options.revision
@options.option(
    "--source",
    "MODEL",
    "A copy of the first source, or of a later one to begin with.  [default: the recorded one]",
)
@options.several("--calibration", "Text that mean and linear were fitted on.", "a lab model's own")
@options.several("--heal", "Text that the model was healed on.", metavar="TEXT")
@options.several("--text", "Other text that the model was erased with.", "a lab's", "TEXT")
@options.option(
    "--by",
    "MODEL",
    "The model that taught to forget, or a copy of it.  [default: the recorded one]",
)
@options.option(
    "--samples",
    "SAMPLES",
    "Passages that the model was erased or healed with.  [default: a lab's]",
)
@options.option("--never", "SAMPLES", "Records of their form that the model was made to keep.")
@options.option(
    "--id-column", "COLUMN", "The column of SAMPLES that names its rows.  [default: id]"
)
@options.option(
    "--secret",
    "REGEX",
    "What marked the secrets of SAMPLES.  [default: what a column secret holds, if there is one]",
)
@options.own_variants
@options.option("--output", "DIR", "Keep the repeated result in DIR.", options.PATH)
@options.overwrite
@options.json
def command(
    model: str,
    output: Path | None,
    variant: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Replay the steps that MODEL records, and compare the result with MODEL, file by file.

    MODEL is an exported folder or a published one. Its first source is fetched at the recorded
    commit, and every cut and every training is repeated from there.
    identity and zero must repeat bit for bit. mean and linear are fitted, so they may differ within
    a tolerance if library versions differ. Erased and healed weights are trained again, and may
    differ within a wider tolerance. A file that is not the one that MODEL's own manifest records
    always counts as different.
    The weights of a published model are downloaded only to compare such tensors. The exit code is 1
    if a file differs, and 4 if weights were trained on a device, or in a number format, that this
    machine lacks: then nothing is repeated. To repeat the measurements, run the commands that
    report.json lists.
    """
    from evals.jobs.reproducing import reproduce_history
    from surgery.variants import load_variant

    for path in variant:
        load_variant(path)
    result = reproduce_history(model, output, **asked, overwrite=overwrite)
    history = result.original.manifest.history
    source = history[result.begins].source.model
    wrong = "DIFFERS" if result.needs is None else "open   "
    if as_json:
        print_json(result.to_json())
    else:
        for file in result.files:
            mark = "equal  " if file.equal else "close  " if file.ok else wrong
            off = "" if file.difference is None else f" (off by {100 * file.difference:.2g} %)"
            echo(f"{mark} {file.name}{off}")
    for name, (then, now) in result.environment.items():
        note(f"{name}: {then or 'not recorded'} for the original, {now or 'none'} now")
    if result.source_is_edited:
        note(f"The source, {source}, is itself an edited model. Without --source, it is made, too.")
    if result.needs is not None:
        note(f"{model}: cannot be compared here: it needs {result.needs}")
        raise click.exceptions.Exit(4)
    if result.first_difference is not None:
        at, step = result.first_different_step, ""
        if at is not None and len(history) > 1:
            step = f", from step {at} of {len(history)} on ({history[at - 1].kind})"
        note(f"error: {model}: not reproduced: {result.first_difference} differs{step}")
        raise click.exceptions.Exit(1)
    if not as_json:
        exactly = "bit for bit"
        if not result.exact:
            exactly = f"within the tolerance of {100 * (result.tolerance or 0):g} %"
        echo(f"{model}: {len(result.files)} files reproduced {exactly} from {source}")
