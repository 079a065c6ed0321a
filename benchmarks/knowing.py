"""What attackers who know the edit get: from a private fine-tune of a public model, once it is cut.

    python -m benchmarks.knowing --output DIR

Fine-tunes `lab:pythia` on 60 records that it has never seen, until it gives nearly all of them.
Cuts it in three ways. Then attacks each cut: as a black box (`any`), with the attention of the
public `lab:pythia` (`graft`), and by waking what was cut (`revive`). Prints how many of the records
come back, and the highest rate of 60 records that no model has seen. Add `--attack relearn` to
compare. What is there from an earlier run is used again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.lab.records import NON_MEMBERS_PER_KIND, Record, draw_records, write_records
from evals.data import Tokens
from evals.data.windows import cut_windows
from evals.jobs.auditing import AuditRequest, audit
from evals.jobs.exporting import ExportRequest, run_export
from evals.lab import calibration_texts, heldout_texts
from evals.measure.attacks.tuning import train
from evals.run.models import LoadedModel, open_model
from surgery.training.training import measure_loss

PUBLIC = "lab:pythia"
SEED = 20_260_401
CUTS = (("0", "linear"), ("4-5", "identity"), ("3", "identity"))
ATTACKS = ("any", "graft", "revive")
STEPS, LEARNING_RATE, HALF = 60, 1e-3, 16


def draw_private(tokenizer: Any) -> list[Record]:
    """60 records to learn and 60 that stay unseen, a third of each kind; none is the lab's."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    drawn = draw_records(encode, tokenizer.decode, SEED)
    learned: list[Record] = []
    for kind in sorted({record.kind for record in drawn}):
        some = [record for record in drawn if record.kind == kind and record.member]
        learned += [replace(record, count=1) for record in some[:NON_MEMBERS_PER_KIND]]
    return learned + [record for record in drawn if not record.member]


def fine_tune(loaded: LoadedModel, records: list[Record]) -> None:
    """Trains all weights of a model, in place, on its records and as much other text."""
    model: Any = loaded.model.float().requires_grad_(True)
    private = np.asarray([record.tokens for record in records if record.member], dtype=np.int32)
    text = cut_windows(calibration_texts(), loaded.tokenizer, private.shape[1])
    shape = (STEPS, HALF, private.shape[1])
    rows: Tokens = np.concatenate([np.resize(some, shape) for some in (private, text)], axis=1)
    parameters = list(model.parameters())
    every = rows.reshape(-1, private.shape[1])
    for step in train(parameters, lambda b: measure_loss(model, b), every, STEPS, LEARNING_RATE):
        if step % 10 == 0:
            click.echo(f"fine-tuned for {step} of {STEPS} steps")
    model.requires_grad_(False)


def make_private(output: Path) -> Path:
    """Writes the fine-tune, its records, and held-out text. Returns the model's folder."""
    folder = output / "private"
    if not folder.exists():
        loaded = open_model(PUBLIC, dtype="float32", device="cpu")
        records = draw_private(loaded.tokenizer)
        output.mkdir(parents=True, exist_ok=True)
        write_records(output / "records.jsonl", records)
        for name, texts in (("heldout", heldout_texts()), ("text", calibration_texts())):
            (output / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
        fine_tune(loaded, records)
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder


@click.command()
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--layout", type=click.Choice(["stock", "compact"]), default="stock")
@click.option("--attack", multiple=True, default=ATTACKS, show_default=True)
def main(output: Path, layout: str, attack: tuple[str, ...]) -> None:
    """Fine-tune, cut, and attack."""
    torch.set_num_threads(1)
    private = make_private(output)
    click.echo(f"{'':24}" + "".join(f"{name:>12}" for name in attack) + "   control, at most")
    for spec, variant in CUTS:
        cut = output / f"{spec}-{variant}-{layout}"
        if not cut.exists():
            asked = {"model": str(private), "drop_attn": spec, "variant": variant}
            text = str(output / "text.txt")
            fitted = {"calibration": (text,)} if variant == "linear" else {}
            run_export(ExportRequest(**asked, **fitted, layout=layout, output=cut))
        found = audit(
            AuditRequest(
                model=str(cut),
                baseline=str(private),
                samples=str(output / "records.jsonl"),
                control=(output / "heldout.txt",),
                attack=attack,
                draws=1,
                sibling=PUBLIC,
                device="cpu",
            )
        )
        assert found is not None
        cells = [f"{one.edited.count} of {one.edited.n}" for one in found.rated]
        most = max(one.control.rate for one in found.rated if one.control)
        click.echo(
            f"{spec + ' ' + variant:24}" + "".join(f"{c:>12}" for c in cells) + f"{most:9.1%}"
        )


if __name__ == "__main__":
    main()
