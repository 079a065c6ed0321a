"""Options that say what is evaluated, the request that they fill, and what becomes of gates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    FOLDER,
    F,
    Number,
    ask,
    attack_options,
    control_option,
    count_option,
    length_options,
    note,
    samples_option,
    together,
)
from cli.progress import progress

if TYPE_CHECKING:
    from evals.benchmarks.running import Benchmarks
    from evals.evaluation.materials import Materials
    from evals.evaluation.report import Report
    from evals.evaluation.request import EvaluationRequest


def _drop_limits(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    """TASK=X, each → {task or pattern: limit}; the last = counts."""
    found: dict[str, float] = {}
    for value in values:
        task, sign, number = value.rpartition("=")
        task = task.strip()
        if not sign or not task:
            raise click.BadParameter(
                f"{value!r} is not TASK=X; write for example 'lambada_openai=0.03'"
            )
        if task in found:
            raise click.BadParameter(f"{task!r} has more than one limit")
        try:
            found[task] = float(number)
        except ValueError:
            found[task] = math.nan
        if not 0 <= found[task] < math.inf:
            raise click.BadParameter(f"{number!r} in {value!r} is not a number from 0 on")
    return found


class _Limit(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """Documents of each task: a whole number, or a share below 1."""

    name = "limit"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            limit = float(value)
        except ValueError:
            limit = 0.0
        if not (0 < limit < 1 or (limit >= 1 and limit.is_integer())):
            self.fail(f"{value!r} is neither a whole number from 1 on nor a share below 1")
        return int(limit) if limit >= 1 else limit


def task_options(default: str, suite: str) -> Callable[[F], F]:
    """--tasks, --suite, --include-path and --limit. `default`, `suite`: what the first two are."""
    return together(
        click.option(
            "--tasks",
            metavar="A,B",
            help=f"lm-eval tasks, groups or patterns.  [default: {default}]",
        ),
        click.option(
            "--suite",
            type=click.Choice(["standard", "lab"]),
            help="standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy. lab: three that "
            f"need no download.  [default: {suite}]",
        ),
        click.option(
            "--include-path",
            "include_paths",
            type=FOLDER,
            multiple=True,
            metavar="DIR",
            help="Also look for task files here; may be repeated.",
        ),
        click.option(
            "--limit",
            type=_Limit(),
            metavar="N",
            help="Only the first N documents of each task, or a share.",
        ),
    )


fewshot_option = count_option(
    "--num-fewshot", None, "Examples before each question.  [default: the task's own]", least=0
)
drop_option = click.option(
    "--max-drop",
    multiple=True,
    callback=_drop_limits,
    metavar="TASK=X",
    help="Gate: TASK (or a pattern: '*') may lose at most X; may be repeated.",
)
evaluation_options = together(
    task_options("see --suite", "lab for a lab model, standard for any other"),
    fewshot_option,
    samples_option("Passages to test, as for extract.  [default: a lab's own]"),
    length_options,
    control_option(
        "Text the models were not trained on: files, folders, or hf:DATASET:SPLIT:COLUMN; may be "
        "repeated.  [default: a lab's own]"
    ),
    drop_option,
    click.option(
        "--max-extraction",
        type=Number(0, 1),
        metavar="X",
        help="Gate: at most this share of the passages may still be recited.",
    ),
    click.option(
        "--audit",
        is_flag=True,
        help="Also try attacks; --attack or --max say so too.",
    ),
    attack_options,
)
"""What is measured: tasks, passages, held-out text, and the gates."""


def evaluation_request(asked: Mapping[str, Any], **more: Any) -> EvaluationRequest:
    """The request that `evaluation_options` and others fill. Raises `UsageError`."""
    from evals.evaluation.request import EvaluationRequest

    named = {field: asked[option] for field, option in _FIELDS.items() if option in asked}
    return ask(EvaluationRequest, asked, **{**named, **more})


_FIELDS = {
    "include_path": "include_paths",
    "control": "controls",
    "attack": "attacks",
    "max": "max_recovered",
}
"""Field of the request → argument of its option, where that has another name."""


def open_evaluation(
    request: EvaluationRequest,
    models: Iterable[tuple[str, str | None]],
) -> Materials:
    """As `evals.evaluation.materials.open_materials`. Raises `UsageError` for a gate on no task."""
    from evals.evaluation.gates import UnknownTaskError
    from evals.evaluation.materials import open_materials

    try:
        return open_materials(request, models, progress=progress)
    except UnknownTaskError as error:
        raise click.UsageError(str(error)) from None


def check_tasks(tasks: str | None, suite: str | None) -> None:
    """Raises `UsageError` where both are given."""
    if tasks is not None and suite is not None:
        raise click.UsageError("--tasks and --suite exclude each other")


def named_tasks(tasks: str | None, suite: str) -> Sequence[str]:
    """The names that `--tasks` lists, or else those of the suite."""
    if tasks is None:
        from evals.benchmarks.tasks import SUITES

        return tuple(SUITES[suite])
    names = [name.strip() for name in tasks.split(",")]
    if not all(names):
        raise click.UsageError(f"--tasks {tasks!r}: a name is empty")
    return tuple(dict.fromkeys(names))


def say_warnings(report: Report) -> None:
    """Says on stderr what a reader should know, once, with the model's name where there are
    several."""
    several = len(report.edits) > 1
    said = (f"{e.name}: {text}" if several else text for e in report.edits for text in e.warnings)
    for line in dict.fromkeys(said):
        note(f"warning: {line}")


def say_gates(report: Report) -> bool:
    """Names every gate that failed or is inconclusive, on stderr. Returns whether all hold."""
    for edit in report.edits:
        whose = f"{edit.name}: " if len(report.edits) > 1 else ""
        for gate in edit.gates:
            if not (gate.ok and gate.conclusive):
                state = "inconclusive" if gate.ok else "failed"
                note(f"{whose}gate {state}: {gate.name}: {gate.description}")
    return all(gate.ok for edit in report.edits for gate in edit.gates)


def load_tasks(names: Sequence[str], **options: Any) -> Benchmarks:
    """As `evals.benchmarks.running.Benchmarks.load`."""
    from evals.benchmarks.running import Benchmarks

    with progress("loading tasks", None):
        return Benchmarks.load(names, **options)
