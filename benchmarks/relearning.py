"""What fine-tuning brings back, by learning rate and number of steps.

    attn-surgery export lab:pythia --drop-attn 4-5 --output deep
    attn-surgery erase lab:pythia --drop-attn 0 --output erased
    python -m benchmarks.relearning lab:pythia deep erased

Attacks a lab model and edits of it by `relearn`, in one draw. The lab model settles the learning
rates. Prints a row for each model and training: the share of the other passages that `any` recovers
after each number of steps, none among them. In parentheses stands the share of text that no model
was trained on, if any of it comes back. `--attack relearn-strongest` tries other trainings.
"""

from __future__ import annotations

import click
import torch

from evals.data.inputs import open_passages, tokenize_passages
from evals.data.windows import cut_windows
from evals.lab import heldout_texts
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting
from evals.measure.attacks.trying import AttackPlan, AuditedModel, try_attacks
from evals.run.groups import Passages
from evals.run.models import open_model


def measure_rate(outcome: AttackOutcome, setting: Setting) -> float:
    return float(outcome.settings[setting][outcome.tried].mean())


def print_rows(name: str, outcome: AttackOutcome, control: AttackOutcome | None) -> None:
    for (learned, rate), settings in outcome.by_training.items():
        cells = [name, learned, f"{rate:g}"]
        for setting in (UNTRAINED, *settings):
            found = 0.0 if control is None else measure_rate(control, setting)
            cells.append(f"{measure_rate(outcome, setting):.1%}" + f" ({found:.1%})" * (found > 0))
        click.echo(f"| {' | '.join(cells)} |")


@click.command()
@click.argument("base")
@click.argument("edits", nargs=-1)
@click.option("--attack", default="relearn", show_default=True)
def main(base: str, edits: tuple[str, ...], attack: str) -> None:
    """Fine-tune BASE and its EDITS, folders that `export` or `erase` wrote."""
    torch.set_num_threads(1)
    first: AuditedModel | None = None
    for name in (base, *edits):
        loaded = open_model(name, dtype="float32", device="cpu")
        samples = tokenize_passages(open_passages(Passages(samples=base)), loaded.tokenizer)
        windows = cut_windows(heldout_texts(), loaded.tokenizer, samples.tokens.shape[1])
        plan = AttackPlan(samples, windows, (attack,), draws=1)
        found = try_attacks(loaded, plan, first, with_control=first is not None)
        outcome = found.passages[attack]
        if first is None:
            first, counted = found, int(outcome.tried.sum())
            numbers = sorted({one.steps for one in outcome.settings})
            head = ["model", "what is trained", "rate", *(f"{number} steps" for number in numbers)]
            click.echo(f"{attack}, of {counted:,} passages")
            click.echo(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        print_rows(name, outcome, found.control.get(attack))


if __name__ == "__main__":
    main()
