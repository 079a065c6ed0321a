"""attn-surgery erase"""

from __future__ import annotations

from typing import Any

import click
from rich.filesize import decimal

from cli import options
from cli.terminal import echo, note, print_json
from surgery.variants import VARIANTS


@click.command("erase")
@click.argument("model")
@options.samples("Passages to erase, as for extract.  [default: a lab model's own]")
@options.option(
    "--drop-attn",
    "SPEC",
    "Blocks or heads of the cut that teaches, such as 20-23. Pick some without which the model no "
    "longer recites; what this cut costs is not paid.",
)
@options.option(
    "--plan",
    "FILE",
    "Take blocks, heads, and variants of the cut from a file that `search` wrote.",
    options.PATH,
)
@options.choice("--variant", VARIANTS, "What these blocks become in the cut.  [default: identity]")
@options.several(
    "--text",
    "Other text, on which the model keeps its predictions. It may hold none of the passages: a "
    "file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
    "a lab model's own",
    "TEXT",
)
@options.calibration
@options.count("--steps", 60, "Steps of 24 passages and 16 x 128 tokens of text.", least=1)
@options.count("--seed", 0, "Decides the order of passages and text.", least=0)
@options.revision
@options.lengths
@options.option("--device", "D", "Where to train.  [default: a GPU if there is one]")
@options.output("Folder to create.  [default: NAME-erased]")
@options.overwrite
@options.option(
    "--max-shard-size",
    "S",
    "Largest weight file, such as 5GB.  [default: as the source is sharded]",
    options.Size(),
)
@options.json
def command(as_json: bool, **asked: Any) -> None:
    """Teach MODEL to forget passages, with its own cut self as the teacher.

    A model without attention in well-chosen blocks knows the language but not the passages. MODEL
    learns to predict on the passages what that cut predicts, and on other text what it predicts
    already. All attention stays in place, so the result costs far less than the cut.

    Only the listed passages are erased. To also stop passages that you cannot list, cut the result
    with `export`.
    """
    from evals.jobs.erasing import EraseRequest, run_erase

    request = options.fill_request(EraseRequest, asked)
    export = run_erase(request)
    assert export is not None
    result = export.to_json()
    if as_json:
        print_json(result)
        return
    erasing = result["erasing"]
    echo(
        f"{export.output}: {erasing['passages']['number']:,} passages erased in "
        f"{erasing['steps']} steps, {decimal(result['bytes'])}"
    )
    note(
        "Nothing measured yet. To see what it still recites and what it lost, run: "
        f"attn-surgery evaluate {export.output} --baseline {request.model} --audit"
    )
