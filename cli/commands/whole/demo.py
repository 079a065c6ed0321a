"""attn-surgery demo"""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import output_option, overwrite_option
from cli.terminal import echo, note, show_progress

TERMS = (
    "Recited, recovered: the share of the records that a model completes by itself, or that an "
    "attacker gets out of it. The reports say what each attack does.",
    "Held-out loss: the model's loss on text that it was not trained on. Lower is better.",
    "acc, acc_norm: the share of a task's questions that a model answers correctly.",
)
CONTINUED = (
    "Each model gets the first {prefix} tokens of a text and writes {suffix} more, always the most "
    "likely one.",
    "The loss is that of the {suffix} tokens that really follow. It is high for a record that is "
    "gone, and low for ordinary text that a model still predicts well.",
    "A model that has lost a record must write something else. A model this small often repeats "
    "itself then. The losses, here and in the table, show what an edit costs.",
)


@click.command("demo")
@output_option(
    "Folder for the two edited models, each with its report, and for the search.",
    default="attn-surgery-demo",
    show_default=True,
)
@overwrite_option
def command(output: Path, overwrite: bool) -> None:
    """Show the whole story on a small model, offline, in about two minutes.

    Edits lab:pythia in two ways: its deep blocks, and what a search chooses. Verifies both, and
    shows side by side what each model recites, what an attacker recovers, and what it still can do.
    """
    from cli.tables import make_console
    from cli.tables.evaluation import note_warnings, print_evaluation
    from evals.demonstrating import PLACES, continue_texts, run_demo

    out = make_console()

    def announce(title: str, commands: list[str]) -> None:
        out.rule(title)
        out.print("\n".join(commands), style="bold")

    report = run_demo(
        output, overwrite=overwrite, announce=announce, say=note, progress=show_progress
    )
    note_warnings(report)
    print_evaluation(report)
    for line in TERMS:
        echo(line)
    out.rule("4. See for yourself")
    prefix, suffix, excerpts = continue_texts(output)
    for line in CONTINUED:
        echo(line.format(prefix=prefix, suffix=suffix))
    for text in excerpts:
        for heading, part in (
            (f"\n{text.label}, prefix", text.prefix),
            ("what really follows", text.suffix),
        ):
            out.print(heading, style="dim")
            echo(repr(part))
        for made in text.continuations:
            right = f"{made.right} of {suffix} tokens as in the text"
            out.print(f"{made.name}: {right}, loss {made.loss:.2f}", style="bold")
            echo(repr(made.text))
    out.rule("Done")
    for name, place in PLACES.items():
        echo(f"{name}: {output / place / 'report.html'}")
    chosen = output / PLACES["searched"]
    echo(f'Each loads like any other: AutoModelForCausalLM.from_pretrained("{chosen}")')
