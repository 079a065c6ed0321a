"""Which part of a fine-tune holds what it learned: parts are exchanged, in both directions.

    python -m benchmarks.parts lab:pythia lab:gpt-neo --output DIR
    python -m benchmarks.parts BASE --private LEARNED/model --samples LEARNED/records.jsonl

Fine-tunes each public model on 60 records that it has never seen, until it gives nearly all. Then
puts one part of the fine-tune into the public model, and one part of the public model into the
fine-tune: attention, MLPs, or both, of each third of the blocks and of all, and all but the blocks.
Prints what `any` recovers, and writes it to benchmarks/results/parts.json. What is there from an
earlier run is used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.knowing import STEPS, choose_records
from benchmarks.private import make_private
from benchmarks.results import Cell, Column, write_results
from evals.data.inputs import open_passages, tokenize_passages
from evals.measure.attacks.attack import Target
from evals.measure.attacks.graft import copy_weights, list_parts
from evals.measure.attacks.weights import put_weights
from evals.run.groups import Passages
from evals.run.models import open_model

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
COLUMNS = [
    Column(key="model", heading="public model"),
    Column(key="part", heading="part"),
    Column(key="into_public", heading="the fine-tune's part in the public model", unit="count"),
    Column(key="into_private", heading="the public model's part in the fine-tune", unit="count"),
]


def exchange(public: str, private: Path, samples: Path) -> Iterator[dict[str, Any]]:
    """The row of each part."""
    models = [open_model(str(name), dtype="float32", device="cpu") for name in (public, private)]
    source = open_passages(Passages(samples=str(samples)))
    passages = tokenize_passages(source, models[0].tokenizer)
    passages = passages.select(passages.trained_on)

    def count(into: Any, other: Any, names: list[str]) -> Cell:
        target = Target(into, None, passages, passages.tokens)
        with put_weights(into, copy_weights(into, other, names)):
            return Cell(value=float(target.recover(into).sum()), n=len(passages))

    ours, theirs = (one.model for one in models)
    for part, names in {"nothing": [], **list_parts(ours)}.items():
        yield {
            "model": f"`{public}`" if public.startswith("lab:") else Path(public).name,
            "part": part,
            "into_public": count(ours, theirs, names),
            "into_private": count(theirs, ours, names),
        }


@click.command()
@click.argument("public", nargs=-1, required=True)
@click.option("--private", type=FOLDER, help="A fine-tune that is there, of the one PUBLIC.")
@click.option("--samples", type=FILE, help="The passages that it learned.")
@click.option("--output", type=FOLDER, help="For the fine-tunes of several.")
@click.option("--name", default="parts", show_default=True, help="Of the results.")
def main(
    public: tuple[str, ...], private: Path | None, samples: Path | None, output: Path | None,
    name: str,
) -> None:  # fmt: skip
    """Exchange parts of PUBLIC models and their fine-tunes."""
    torch.set_num_threads(1)
    typed = " ".join(Path(one).name for one in public)
    pairs = []
    if private is not None and samples is not None:
        pairs.append((public[0], private, samples))
        typed += f" --private {private.name} --samples {samples.name}"
    elif output is not None:
        typed += " --output DIR"
        for one in public:
            place = output / one.replace(":", "-").replace("/", "-")
            made = make_private(one, choose_records, STEPS, place)
            pairs.append((one, made, place / "records.jsonl"))
    else:
        raise click.UsageError("give --output, or --private and --samples")
    rows = []
    for row in (row for pair in pairs for row in exchange(*pair)):
        rows.append(row)
        cells = [row["into_public"], row["into_private"]]
        told = ", ".join(f"{cell.value:.0f} of {cell.n}" for cell in cells)
        click.echo(f"{row['model']}, {row['part']}: {told}")
    typed = f"python -m benchmarks.parts {typed}" + f" --name {name}" * (name != "parts")
    measures = ["benchmarks/parts.py", "evals/measure/attacks/graft.py"]
    click.echo(write_results(name, typed, COLUMNS, rows, measures=measures))


if __name__ == "__main__":
    main()
