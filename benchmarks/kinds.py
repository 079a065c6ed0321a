"""Does an edit that was chosen on two kinds of records also stop the third?

    python -m benchmarks.kinds lab:pythia --output DIR

The lab's records come from three generators: contacts, keys, and verses. The half that a search
holds back is of the same kinds as the half that it chooses on, and shares phrases with it. So for
each kind, this searches on the records of the two others, at most 1 % of which may be recovered. It
attacks the choice with the records of the kind that the search never saw. Prints the edit, its
rise of the loss, what `any` recovers from the half of the two kinds that was held back, and what
each attack recovers of the third kind. What is there from an earlier run is used again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
import torch

from benchmarks.lab.records import Record, read_records, write_records
from evals.choose.search.request import SearchRequest
from evals.jobs.asking import MeasureRequest
from evals.jobs.evaluating import run_measurement
from evals.jobs.exporting import ExportRequest, open_export
from evals.jobs.searching import search
from evals.lab import LAB_MODELS, samples_path
from surgery.record.measured import BASE, EDITED

LIMIT = 0.01


def write_kinds(records: list[Record], kind: str, output: Path) -> tuple[Path, Path]:
    """Writes the records of the other kinds, and those of this one, with their non-members."""
    files = output / f"without-{kind}.jsonl", output / f"{kind}.jsonl"
    write_records(files[0], [record for record in records if record.kind != kind])
    write_records(files[1], [record for record in records if record.kind == kind])
    return files


@click.command()
@click.argument("model", type=click.Choice([f"lab:{name}" for name in LAB_MODELS]))
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--grain", type=click.Choice(["blocks", "heads", "mixed"]), default="mixed")
@click.option("--attack", multiple=True, default=("any", "hints:4"), show_default=True)
def main(
    model: str, output: Path, grain: Literal["blocks", "heads", "mixed"], attack: tuple[str, ...]
) -> None:
    """Choose on two kinds, and test on the third."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    records = read_records(samples_path(model.removeprefix("lab:")))
    columns = ["left out", "chosen", "loss", "`any`, other kinds"]
    click.echo(" | ".join(columns + [f"`{name}`, base → edited" for name in attack]))
    for kind in sorted({record.kind for record in records}):
        others, left_out = write_kinds(records, kind, output)
        asked = SearchRequest.of(
            model=model,
            samples=str(others),
            max_extraction=LIMIT,
            grain=grain,
            device="cpu",
        )
        result, plan = search(asked, output / f"found-without-{kind}")
        if result.selected is None:
            click.echo(f"{kind} | no edit that was measured keeps the limit")
            continue
        cut = output / f"cut-without-{kind}"
        if not cut.exists():
            open_export(ExportRequest.of(model=model, plan=plan, output=cut)).run()
        found = run_measurement(
            MeasureRequest.of(
                command="audit",
                models=(str(cut),),
                baseline=model,
                samples=str(left_out),
                attack=attack,
                draws=1,
                device="cpu",
            )
        )
        best, report = result.selected, found.report
        left = result.read("recovered.any", best, "held back")
        cells = [kind, result.find_edit(best).label, f"{result.rise(best, 'held back'):+.3f}"]
        cells.append(f"{left:.1%} of {result.n_held_back}")
        for name in attack:
            before, after = (report.find(f"recovered.{name}", of) for of in (BASE, EDITED))
            assert before is not None
            assert after is not None
            cells.append(f"{before.value:.1%} → {after.value:.1%} of {after.n}")
        click.echo(" | ".join(cells))


if __name__ == "__main__":
    main()
