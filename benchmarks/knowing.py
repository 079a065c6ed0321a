"""What attackers who know the edit get: from a private fine-tune of a public model, once it is cut.

    python -m benchmarks.knowing lab:pythia --output DIR
    python -m benchmarks.knowing DEEP --cut 17-23:identity --output DIR

Fine-tunes a model that reads the lab's tokens on 60 records that it has never seen, until it gives
nearly all of them. Cuts it in several ways. Then attacks each cut: as a black box (`any`), with the
attention of the public model (`graft`), and by waking what was cut (`revive`). Prints how many of
the records come back, and the highest rate of 60 records that no model has seen. Add
`--attack relearn` to compare. What is there from an earlier run is used again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.lab.records import NON_MEMBERS_PER_KIND, Record
from benchmarks.private import attack_cut, list_cuts, make_private
from surgery.record.measured import EDITED

ATTACKS = ("any", "graft", "revive")
STEPS = 60


def choose_records(
    drawn: list[Record], tokenizer: Any, each: int = NON_MEMBERS_PER_KIND
) -> list[Record]:
    """`each` records of each kind to learn, and 60 that stay unseen, as many of each kind."""
    learned: list[Record] = []
    for kind in sorted({record.kind for record in drawn}):
        some = [record for record in drawn if record.kind == kind and record.member]
        learned += [replace(record, count=1) for record in some[:each]]
    return learned + [record for record in drawn if not record.member]


@click.command()
@click.argument("public")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--cut", "cuts", multiple=True, help="BLOCKS:VARIANT. A lab model has three.")
@click.option("--layout", type=click.Choice(["auto", "stock", "compact"]), default="auto")
@click.option("--attack", multiple=True, default=ATTACKS, show_default=True)
def main(
    public: str, output: Path, cuts: tuple[str, ...], layout: str, attack: tuple[str, ...]
) -> None:
    """Fine-tune the model PUBLIC, cut it, and attack it."""
    cuts = list_cuts(public, cuts)
    torch.set_num_threads(1)
    make_private(public, choose_records, STEPS, output)
    click.echo(f"{'':24}" + "".join(f"{name:>12}" for name in attack) + "   control, at most")
    for cut in cuts:
        found = attack_cut(public, output, cut, attack, layout)
        rows = [one for name in attack if (one := found.find(f"recovered.{name}", EDITED))]
        cells = [f"{one.details['count']} of {one.n}" for one in rows]
        never = (found.find(one.name, EDITED, "never trained on") for one in rows)
        most = max(one.value for one in never if one and one.value is not None)
        click.echo(f"{cut:24}" + "".join(f"{cell:>12}" for cell in cells) + f"{most:9.1%}")


if __name__ == "__main__":
    main()
