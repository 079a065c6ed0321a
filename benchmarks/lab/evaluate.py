"""Measures the shipped lab models: `python -m benchmarks.lab.evaluate [NAME]…`.

Prints the tables of this folder's README.md from the shipped files: extraction rate by planted
count, and held-out loss against counting models of the same training text. Weights are as stored,
arithmetic is float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import click
import torch
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from benchmarks.lab.measure import (
    Baselines,
    Rows,
    extracted,
    mean_loss,
    ngram_baselines,
    rates_by_count,
)
from benchmarks.lab.packing import END_OF_TEXT, fold_rows
from benchmarks.lab.records import read_records
from benchmarks.lab.training_texts import training_texts
from evals.lab import LAB_MODELS, corpus, model_path, samples_path
from surgery.editing.loading import load_model, load_tokenizer


@dataclass(frozen=True)
class Measured:
    """What is measured of one lab model; losses in nats per token."""

    rates: dict[int, float]
    heldout_loss: float
    baselines: Baselines
    parameters: int
    file_bytes: int


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(LAB_MODELS))
def main(names: tuple[str, ...]) -> None:
    """Print extraction and held-out loss of the shipped lab models as Markdown tables."""
    results = {name: measure(name) for name in names or LAB_MODELS}
    console = Console(width=100)
    rates = Table("Occurrences in training", box=MARKDOWN)
    losses = Table("Nats per held-out token", box=MARKDOWN)
    for name in results:
        rates.add_column(f"`lab:{name}`", justify="right")
        losses.add_column(f"`lab:{name}`", justify="right")
    measured = list(results.values())
    for count in measured[0].rates:
        label = str(count) if count else "0 (non-members)"
        rates.add_row(label, *(f"{result.rates[count]:.1%}" for result in measured))
    losses.add_row("model", *(f"{result.heldout_loss:.3f}" for result in measured))
    losses.add_row("bigram", *(f"{result.baselines.bigram:.3f}" for result in measured))
    losses.add_row("unigram", *(f"{result.baselines.unigram:.3f}" for result in measured))
    console.print("Extracted, 32 tokens after 32 tokens:\n", rates, "\nAbility:\n", losses, "")
    for name, result in results.items():
        console.print(
            f"`lab:{name}`: {result.parameters:,} parameters, "
            f"model.safetensors {result.file_bytes:,} bytes.",
            highlight=False,
        )


def measure(name: str) -> Measured:
    """Measure lab model `name` from its shipped files."""
    model, tokenizer = load(name)
    records = read_records(samples_path(name))
    rows = heldout_rows(tokenizer, model.config.max_position_embeddings)
    training = [(*ids, END_OF_TEXT) for ids in tokenizer(training_texts())["input_ids"]]
    return Measured(
        rates=rates_by_count(records, extracted(model, records)),
        heldout_loss=mean_loss(model, rows),
        baselines=ngram_baselines(
            list(chain.from_iterable(training)), rows, len(tokenizer.get_vocab())
        ),
        parameters=sum(weight.numel() for weight in model.parameters()),
        file_bytes=(model_path(name) / "model.safetensors").stat().st_size,
    )


def heldout_rows(tokenizer: Any, length: int) -> Rows:
    """The held-out files as rows [n, length] of token ids."""
    return fold_rows(tokenizer(corpus.heldout_texts())["input_ids"], length)


def load(name: str) -> tuple[PreTrainedModel, Any]:
    """Lab model `name` in float32, and its tokenizer."""
    folder = model_path(name)
    return load_model(folder, dtype=torch.float32), load_tokenizer(folder)


if __name__ == "__main__":
    main()
