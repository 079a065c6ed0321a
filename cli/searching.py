"""Options that say what a search chooses from."""

from __future__ import annotations

import click

from cli.options import (
    calibration_option,
    corpus_option,
    count_option,
    layout_option,
    measuring_options,
    together,
)
from surgery.variants import VARIANTS

choice_options = together(
    click.option(
        "--grain",
        type=click.Choice(["blocks", "heads", "mixed"]),
        default="mixed",
        show_default=True,
        help="Choose whole blocks, single heads, or both.",
    ),
    click.option(
        "--measure",
        default="any",
        show_default=True,
        metavar="M",
        help="What counts as recovered: any (by greedy, hints:2, prefix or sampling:100), greedy "
        "(word for word), hints:K (with at most K wrong tokens corrected), prefix, sampling:N, "
        "span:M: see docs/threat-model.md.",
    ),
    click.option(
        "--variant",
        multiple=True,
        type=click.Choice(list(VARIANTS)),
        help="What a block or head may become. Repeatable.  [default: all if there is calibration "
        "text, else identity and zero]",
    ),
    corpus_option,
    calibration_option,
    layout_option("Choose only what this layout can hold; auto: either layout."),
    count_option(
        "--max-evaluations",
        64,
        "Measure at most this many edits. If there are no more, all are measured; else estimates "
        "propose them.",
        least=1,
    ),
    count_option("--seed", 0, "Decides which passages and windows are held back.", least=0),
    measuring_options,
)
"""What is searched, and how."""
