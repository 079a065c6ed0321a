"""attn-surgery demo"""

from __future__ import annotations

from pathlib import Path

import click

from cli import options
from cli.terminal import echo

TERMS = (
    "Recited, recovered: the share of the records that a model completes by itself, or that an "
    "attacker gets out of it. The reports say what each attack does.",
    "relearn: what comes back of the others after fine-tuning on a tenth of the records. "
    "Here it runs once; evaluate runs it three times and gives the mean.",
    "Held-out loss: the model's loss on text that it was not trained on. Lower is better.",
    "lab_copy, acc: how often a model ends a line as it did above, by the right word of four.",
)
CONTINUED = (
    "Each model gets the first half of a text and writes as many tokens more, always the most "
    "likely one. Tokens that differ from what the base writes are colored.",
    "The figures are of the second half as it really is: the share of its tokens that a model "
    "predicts, each after the true ones, and its loss. The loss is high for a record that it no "
    "longer predicts, and low for ordinary text that a model still predicts well.",
    "Look at what an edited model writes in place of a record. If it is no record at all, it "
    "writes this kind of text worse than before: a cost that no line of the table shows.",
)


@click.command("demo")
@options.output(
    "Folder for the edited models, each with its report, the search, and the texts.",
    default="attn-surgery-demo",
    show_default=True,
)
@click.option(
    "--erase",
    is_flag=True,
    help="Make a third edit, in a few minutes more: teach the model by its own cut to "
    "predict the records as one that does not know them, then cut it. You can add this to a "
    "demo that ended.",
)
@options.overwrite
def command(output: Path, erase: bool, overwrite: bool) -> None:
    """Show the whole story on a small model, offline, in about a minute on two idle cores.

    Edits lab:pythia in two ways, or three with --erase: its deep blocks, what a search chooses, and
    the same after erasing the records. Verifies all, and shows side by side what each model
    recites, what an attacker recovers, and what it still can do.

    What is done stays if you stop it: run the same command again to continue.
    """
    from cli.console import make_console
    from cli.tables.comparison import print_comparison
    from cli.tables.figures import print_side_by_side
    from evals.jobs.demonstrating import PLACES, compare_texts, list_places, run_demo

    out = make_console()

    def announce(title: str, commands: list[str]) -> None:
        out.rule(title)
        for line in commands:
            out.print(line, style="bold")

    places = list_places(erase)
    report = run_demo(output, erase=erase, overwrite=overwrite, announce=announce)
    print_side_by_side(report, ("before", *places))
    for line in TERMS:
        echo(line)
    out.rule("See for yourself")
    for line in CONTINUED:
        echo(line)
    print_comparison(compare_texts(output, places), ("before", *places))
    out.rule("Done")
    for name, place in places.items():
        echo(f"{name}: {output / place / 'report.html'}")
    chosen = output / PLACES["searched"]
    echo(f'Each loads like any other: AutoModelForCausalLM.from_pretrained("{chosen}")')
