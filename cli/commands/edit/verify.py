"""attn-surgery verify"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.terminal import echo, name_options, note, print_json, show_progress


@click.command("verify")
@click.argument("model")
@options.option(
    "--source",
    "MODEL",
    "The model that was edited. Every tensor is compared with it, byte by byte.",
)
@options.revision
@options.json
def command(
    model: str,
    source: str | None,
    revision: str | None,
    as_json: bool,
) -> None:
    """Check that the exported MODEL is what its manifest says.

    MODEL is a folder or a Hub id. Every file of a Hub id is downloaded. --revision applies to MODEL
    if that is a Hub id, and otherwise to --source. A source with the recorded name is read at its
    recorded commit.

    Checks the SHA-256 of every file, and that there is no other file, except the card, a report
    with lm-eval's results, recipe.yaml, what a killed run left, and notes of git and of the Hub's
    client. Signatures (*.sig, *.asc), pictures, and results in .eval_results/ may be there, and are
    listed as claimed. In the stock layout, edited heads must hold exactly the constants that make
    them attention-free; compact blocks have none to compare without --source. No parameter may be
    NaN or infinite.
    With --source, every other tensor must equal the source's byte for byte, and repeating the edit
    must give the same tensors. Of an erased or healed model, only names, types, and shapes of the
    trained tensors can be compared, and that training changed any.

    Of the folder of an adapter (erase --as-adapter), only the files are compared with the record,
    and --source must be the recorded model. What the adapter holds is not checked.

    With or without --source, a model runs on a new random input: edited heads must depend on each
    token alone, and all others must still mix tokens. The generated parts of README.md
    must agree with report.json and the manifest. If surgery.json says that another version wrote
    README.md, it is listed as claimed. So are statements that no check can prove, such as
    measurements. The last
    line is the verdict. If a check fails, one line says which and why, and the exit code is 1.
    """
    if revision is not None and source is None and Path(model).is_dir():
        raise click.UsageError("--revision needs --source, the model that has this revision")
    from surgery.verification import verify

    with show_progress(f"verify {model}", None):
        result = verify(model, source=source, revision=revision)
    if as_json:
        print_json(result.to_json())
    else:
        for check in result.checks:
            if check.ok:  # one that fails is the error, below
                echo(f"ok     {check.name}: {check.detail}")
        for claim in result.claims:
            echo(f"claimed {claim.name}: {name_options(claim.detail)}")
        commit = f" at commit {result.commit[:12]}" if result.commit else ""
        if result.ok:
            echo(f"{model}{commit}: {result.verdict}")
    if result.failed is not None:
        note(f"error: {model}: {result.failed.name}: {result.failed.detail}")
        raise click.exceptions.Exit(1)
