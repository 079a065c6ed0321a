"""Does a cut also stop longer suffixes, and attackers who hold a long prefix?

    python -m benchmarks.lengths lab:pythia --output DIR

Fine-tunes a model that reads the lab's tokens on passages of 250 tokens that it has never seen,
until it gives nearly all of them: four records of one kind, one after the other. Cuts it. Then
attacks the same passages, cut to 32 + 32, 50 + 50, and 200 + 50 tokens of prefix and suffix. Prints
what each attack recovers before the cut and after it. What is there from an earlier run is used
again.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.lab.records import KINDS, Record
from benchmarks.private import attack_cut, list_cuts, make_private
from surgery.record.measured import BASE, EDITED

LENGTHS = ((32, 32), (50, 50), (200, 50))
LENGTH, EACH = 250, 4
LEARNED, UNSEEN = 16, 4
"""Passages of each kind."""
STEPS = 120


def join_records(drawn: list[Record], tokenizer: Any) -> list[Record]:
    """Passages to learn and passages that stay unseen; no record is in two of them."""
    passages = []
    for kind in KINDS:
        some = [record.tokens for record in drawn if record.member and record.kind == kind]
        for place in range(LEARNED + UNSEEN):
            parts = some[place * EACH : (place + 1) * EACH]
            tokens = tuple(chain.from_iterable(parts))[:LENGTH]
            member, text = place < LEARNED, tokenizer.decode(tokens)
            passages.append(Record(f"{kind}-{place}", kind, int(member), member, tokens, text))
    return passages


@click.command()
@click.argument("public")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--cut", "cuts", multiple=True, help="BLOCKS:VARIANT. A lab model has three.")
@click.option("--attack", multiple=True, default=("any", "graft"), show_default=True)
def main(public: str, output: Path, cuts: tuple[str, ...], attack: tuple[str, ...]) -> None:
    """Fine-tune the model PUBLIC, cut it, and attack it at every length."""
    cuts = list_cuts(public, cuts)
    torch.set_num_threads(1)
    make_private(public, join_records, STEPS, output)
    for cut in cuts:
        for prefix, suffix in LENGTHS:
            lengths = {"prefix_length": prefix, "suffix_length": suffix}
            found = attack_cut(public, output, cut, attack, "auto", **lengths)
            cells = []
            for name in attack:
                before, after = (found.find(f"recovered.{name}", of) for of in (BASE, EDITED))
                if before and after:
                    counts = " → ".join(str(one.details["count"]) for one in (before, after))
                    cells.append(f"{name} {counts} of {after.n}")
            click.echo(f"{cut}, {prefix} + {suffix}: {', '.join(cells)}")


if __name__ == "__main__":
    main()
