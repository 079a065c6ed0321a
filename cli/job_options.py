"""Options that say what an evaluation measures, and what a search chooses from."""

from __future__ import annotations

import math
from collections.abc import Callable

import click

from cli.options import (
    COMMAS,
    FOLDER,
    F,
    Number,
    attack_options,
    calibration_option,
    combine_options,
    control_option,
    corpus_option,
    count_option,
    layout_option,
    length_options,
    limit_option,
    measuring_options,
    samples_option,
)
from surgery.variants import VARIANTS


def task_options(default: str, suite: str) -> Callable[[F], F]:
    """--tasks, --suite, --include-path, --limit. `default`, `suite`: defaults of the first two."""
    return combine_options(
        click.option(
            "--tasks",
            metavar=COMMAS,
            help=f"lm-eval tasks, groups, or patterns, separated by commas.  [default: {default}]",
        ),
        click.option(
            "--suite",
            type=click.Choice(["standard", "quick", "lab"]),
            help="standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy, arithmetic_2da, "
            "webqs. quick: 250 documents each of three of them. lab: three tasks that need no "
            f"download.  [default: {suite}]",
        ),
        click.option(
            "--include-path",
            type=FOLDER,
            multiple=True,
            metavar="DIR",
            help="Folder with more lm-eval task files. Repeatable.",
        ),
        click.option(
            "--limit",
            type=Number(min=0, min_open=True),
            metavar="N",
            help="Use only the first N documents of each task, or this share of them.",
        ),
    )


gated_task_options = combine_options(
    task_options("the tasks of --suite", "lab for a lab model, standard for any other"),
    click.option("--no-benchmarks", is_flag=True, help="Run no benchmark tasks."),
    count_option(
        "--num-fewshot", None, "Examples before each question.  [default: the task's own]", least=0
    ),
)
drop_option = limit_option(
    "--max-drop",
    "TASK=X",
    "lambada_openai=0.03",
    "Gate: TASK, or every task that a pattern such as '*' matches, may lose at most X. Repeatable.",
    most=math.inf,
)
evaluation_options = combine_options(
    gated_task_options,
    samples_option("Passages to test, as for extract.  [default: a lab model's own]"),
    length_options,
    control_option("a lab model's own"),
    drop_option,
    click.option(
        "--max-extraction",
        type=Number(0, 1),
        metavar="X",
        help="Gate: the model may still recite at most this share of the passages.",
    ),
    click.option(
        "--audit",
        is_flag=True,
        help="Also try the default attacks. --attack and --max imply this option.",
    ),
    attack_options,
)
"""What is measured: tasks, passages, held-out text, and the gates."""
choice_options = combine_options(
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
        help="What counts as recovered: greedy (word for word), hints:K (after at most K wrong "
        "tokens are corrected), prefix, sampling:N, span:M, or any (by greedy, hints:2, prefix, or "
        "sampling:100). See docs/threat-model.md.",
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
    layout_option("Choose only edits that this layout can hold. auto: either layout."),
    count_option(
        "--max-evaluations",
        64,
        "Measure at most this many edits. If fewer are possible, all are measured. Otherwise, "
        "estimates choose which.",
        least=1,
    ),
    count_option("--seed", 0, "Decides which passages and windows are held back.", least=0),
    measuring_options,
)
"""What is searched, and how."""
