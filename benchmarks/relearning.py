"""What fine-tuning on a tenth of the passages brings back, setting by setting.

    python -m benchmarks.relearning --drop-attn 4-5

Cuts a lab model and runs `relearn-strongest` in one draw, all of its settings, however long that
takes. Prints, for each learning rate, what is trained, and number of steps, the share of the other
passages that come back, and, in parentheses, that of text that no model was trained on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import torch

from evals.data.inputs import open_passages, tokenize_passages
from evals.data.windows import cut_windows
from evals.jobs.auditing import AuditRequest
from evals.jobs.exporting import ExportRequest, run_export
from evals.lab import heldout_texts
from evals.measure.attacks import relearn_strongest
from evals.measure.attacks.attack import AttackOutcome, Setting
from evals.measure.attacks.trying import AttackPlan, try_attacks
from evals.run.models import open_model

NAME = "relearn-strongest"


def rate(outcome: AttackOutcome, setting: Setting) -> float:
    return float(outcome.settings[setting][outcome.tried].mean())


@click.command()
@click.option("--model", default="lab:pythia", show_default=True)
@click.option("--drop-attn", required=True)
@click.option("--variant", default="identity", show_default=True)
def main(model: str, drop_attn: str, variant: str) -> None:
    """Cut, and train in every setting."""
    torch.set_num_threads(1)
    relearn_strongest.LONGEST = 1e9
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "cut"
        run_export(ExportRequest(model=model, drop_attn=drop_attn, variant=variant, output=output))
        loaded = open_model(str(output), dtype="float32", device="cpu")
        request = AuditRequest(model=str(output), baseline=model, attack=(NAME,))
        passages = open_passages(model, request)
        samples = tokenize_passages(passages, loaded.tokenizer)
        windows = cut_windows(heldout_texts(), loaded.tokenizer, samples.tokens.shape[1])
        found = try_attacks(loaded, AttackPlan(samples, windows, (NAME,), draws=1))
    outcome, control = found.passages[NAME], found.control[NAME]
    click.echo(f"{model}, {drop_attn} {variant}: {found.seconds[NAME]:.0f} s")
    for setting in outcome.settings:
        told = f"{setting.learned}, {setting.learning_rate:g}, {setting.steps} steps"
        share = f"{rate(outcome, setting):7.1%} ({rate(control, setting):.1%})"
        click.echo(f"{told:44}{share}")


if __name__ == "__main__":
    main()
