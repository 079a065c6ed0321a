"""Measures and bounds what attention's mixing adds to each block, as tables.

    python -m benchmarks.bounds lab:pythia
    python -m benchmarks.bounds DIR --corpus heldout/ --json

The second table follows the edit of each block through the later ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from scipy.stats import spearmanr

from benchmarks.bounds.divergence import measure_bounds
from evals.data.inputs import require_heldout_texts
from evals.data.windows import cut_windows
from evals.run.models import open_model


def print_tables(found: dict[str, Any]) -> None:
    print(f"{found['windows']} windows, {found['tokens']:,} tokens; relative to the residual\n")
    print("| block | measured | bound | pairwise bound | KL of the edit, nats |")
    print("|---|---|---|---|---|")
    for one, kl in zip(found["blocks"], found["logits_kl"], strict=True):
        means = [f"{one[f'{name}_mean']:.2f}" for name in ("measured", "bound", "pairwise")]
        print("|", " | ".join([str(one["block"]), *means, f"{kl:.3f}"]), "|")
    bounds = [one["bound_mean"] for one in found["blocks"]]
    print(f"\nrank correlation of bound and KL: {spearmanr(bounds, found['logits_kl'])[0]:.2f}")
    last = range(len(found["blocks"]))
    print("\n| edited block |", " | ".join(f"after {block}" for block in last), "| logits |")
    print("|---" * (len(last) + 2) + "|")
    for block, row in enumerate(found["propagation"]):
        print(f"| {block} |", " | ".join("" if x is None else f"{x:.1%}" for x in row), "|")


@click.command()
@click.argument("model")
@click.option(
    "--corpus", type=click.Path(exists=True, path_type=Path), help="[default: a lab model's own]"
)
@click.option("--windows", default=256, show_default=True, help="At most so many.")
@click.option("--tokens", default=256, show_default=True, help="In each window.")
@click.option("--device", help="[default: a GPU if there is one]")
@click.option("--json", "as_json", is_flag=True, help="Print all that was measured.")
def main(
    model: str, corpus: Path | None, windows: int, tokens: int, device: str | None, as_json: bool
) -> None:
    """Measure and bound what attention's mixing adds to each block of MODEL."""
    texts = require_heldout_texts([corpus] if corpus else [], model)
    loaded = open_model(model, dtype="float32", device=device)
    cut = cut_windows(texts, loaded.tokenizer, tokens, most=windows)
    found = measure_bounds(loaded.model, cut)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_tables(found)


if __name__ == "__main__":
    main()
