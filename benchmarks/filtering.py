"""What a filter of the output does: decoding that may not write n tokens in a row of a passage.

    python -m benchmarks.filtering lab:pythia lab:gpt-neo

This is MemFree decoding (Ippolito et al. 2023, arXiv 2210.17546) on the listed passages: three
quarters of those that the model was trained on. For each n, it counts the listed passages whose
suffix greedy decoding writes word for word, and nearly so (`evals`'s measure near_match), and tells
the mean similarity to the suffix. What the filter costs is the share of true next tokens that it
forbids: in records of the same form that no model saw, and in held-out text. Whoever gets the
weights runs them without the filter: then all that the first row says comes out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import click
import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from benchmarks.results import Cell, Column, write_results
from evals.data import Tokens
from evals.data.held_back import deal_unlisted
from evals.data.inputs import open_passages, require_heldout_texts, tokenize_passages
from evals.data.windows import cut_windows
from evals.measure.memorization.measures import NEAR_MATCH, near_match_similarity
from evals.run.groups import Passages
from evals.run.models import open_model

LEFT_OUT, WINDOWS = 0.25, 128
LENGTHS = (4, 8, 16)
COLUMNS = [
    Column(key="model", heading="model"),
    Column(key="filter", heading="filter"),
    Column(key="exact", heading="word for word", unit="share"),
    Column(key="near", heading="nearly", unit="share"),
    Column(key="similar", heading="mean similarity", unit="share"),
    Column(key="form", heading="forbidden in new records of the form", unit="share"),
    Column(key="other", heading="forbidden in other text", unit="share"),
]


class Filter(LogitsProcessor):  # type: ignore[misc]
    """Forbids the last token of every run of `length` tokens of the rows, int32 [N, T]."""

    def __init__(self, rows: Tokens, length: int) -> None:
        self.before = length - 1
        self.forbidden: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for run in np.lib.stride_tricks.sliding_window_view(rows, length, axis=1).reshape(
            -1, length
        ):
            *given, last = run.tolist()
            self.forbidden[tuple(given)].add(last)

    def find(self, said: list[int]) -> set[int]:
        """What may not follow."""
        return self.forbidden.get(tuple(said[-self.before :]), set())

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for row, said in enumerate(input_ids.tolist()):
            scores[row, list(self.find(said))] = -torch.inf
        return scores

    def measure_forbidden(self, rows: Tokens) -> Cell:
        """The share of the true next tokens that it forbids."""
        runs = np.lib.stride_tricks.sliding_window_view(rows, self.before + 1, axis=1)
        flags = [
            run[-1] in self.find(run[:-1]) for run in runs.reshape(-1, self.before + 1).tolist()
        ]
        return Cell(value=float(np.mean(flags)), n=len(flags))


def measure(name: str) -> Iterator[dict[str, Any]]:
    """The rows of a model: without a filter, then for each length."""
    loaded = open_model(name, dtype="float32", device="cpu")
    passages = tokenize_passages(open_passages(Passages(samples=name)), loaded.tokenizer)
    listed = passages.select(passages.trained_on & ~deal_unlisted(passages, LEFT_OUT))
    unseen = passages.select(~passages.trained_on).tokens
    texts = require_heldout_texts((), name)
    other = cut_windows(texts, loaded.tokenizer, listed.tokens.shape[1])[:WINDOWS]
    first = listed.prefix_length
    suffix = listed.tokens[:, first:]
    prompts = torch.from_numpy(listed.tokens[:, :first].astype(np.int64))
    for length in (None, *LENGTHS):
        one = None if length is None else Filter(listed.tokens, length)
        made = loaded.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=suffix.shape[1],
            min_new_tokens=suffix.shape[1],
            logits_processor=LogitsProcessorList([] if one is None else [one]),
        )
        decoded = made[:, first:].numpy().astype(np.int32)
        similar = near_match_similarity(decoded, suffix)
        yield {
            "model": name,
            "filter": "none" if one is None else f"{length} tokens",
            "exact": Cell(value=float((decoded == suffix).all(1).mean()), n=len(suffix)),
            "near": Cell(value=float((similar >= NEAR_MATCH).mean()), n=len(suffix)),
            "similar": float(similar.mean()),
            "form": 0.0 if one is None else one.measure_forbidden(unseen),
            "other": 0.0 if one is None else one.measure_forbidden(other),
        }


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--name", help="Also write benchmarks/results/NAME.json.")
def main(models: tuple[str, ...], name: str | None) -> None:
    """Decode behind a filter from each of MODELS, lab models."""
    torch.set_num_threads(1)
    rows = []
    for model in models:
        for row in measure(model):
            rows.append(row)
            click.echo({key: getattr(cell, "value", cell) for key, cell in row.items()})
    if name:
        typed = f"python -m benchmarks.filtering {' '.join(models)} --name {name}"
        write_results(name, typed, COLUMNS, rows, measures=["benchmarks/filtering.py"])


if __name__ == "__main__":
    main()
